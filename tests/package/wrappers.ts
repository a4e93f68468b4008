// Compiled, not run: the declarations take what idb and Dexie hand out for databases and transactions.
import Dexie from "dexie";
import type { IDBPDatabase, IDBPTransaction } from "idb";
import { addLeaseStore, createLocks, LEASE_SCHEMA, LEASE_STORE, type Lease } from "tab-lease";

export async function fences(lease: Lease) {
  const byIdb = {} as IDBPDatabase<unknown>;
  addLeaseStore(byIdb);
  await lease.fence(byIdb.transaction(["notes", LEASE_STORE], "readwrite"));
  const locks = createLocks<IDBPTransaction<unknown, string[], "readwrite">>({ database: byIdb });
  const held = await locks.acquire("a");
  await locks.acquire("a", { within: held });
  await held.transaction(["notes"], "readwrite", async (tx) => {
    await tx.objectStore("notes").put("text", "key");
  });

  const byDexie = new Dexie("app");
  byDexie.version(1).stores({ notes: "++id", [LEASE_STORE]: LEASE_SCHEMA });
  createLocks({ database: byDexie });
  await byDexie.transaction("rw", ["notes", LEASE_STORE], (tx) => lease.fence(tx));
}
