// Compiled, not run: the declarations must fit how the package is used, and refuse what it refuses.
import Dexie from "dexie";
import type { IDBPDatabase, IDBPTransaction } from "idb";
import {
  acquire,
  addLeaseStore,
  createLocks,
  LEASE_SCHEMA,
  LEASE_STORE,
  LeaseLostError,
  query,
  StoreError,
  TimeoutError,
  tryAcquire,
  withLease,
} from "tab-lease";
import type { HeldLockInfo, Lease, LockInfo, Locks, LocksSettings } from "tab-lease";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <_T extends true>() => {};

export async function uses() {
  const lease = await acquire("a", { timeout: 5, signal: new AbortController().signal });
  is<Equal<typeof lease, Lease>>();
  is<Equal<typeof lease.token, number>>();
  is<Equal<typeof lease.epoch, number>>();
  is<Equal<typeof lease.dirty, boolean>>();
  is<Equal<typeof lease.signal, AbortSignal>>();
  is<Equal<ReturnType<typeof lease.release>, Promise<void>>>();
  {
    await using held = await acquire("a");
    held.name.length;
  }
  const tried = await tryAcquire("a");
  is<Equal<typeof tried, Lease | null>>();
  const sum = await withLease("a", async (lease) => lease.token + 1);
  is<Equal<typeof sum, number>>();
  const text = await withLease("a", { timeout: 5 }, () => "text");
  is<Equal<typeof text, string>>();
  const { held, pending } = await query();
  is<Equal<typeof held, HeldLockInfo[]>>();
  is<Equal<typeof pending, LockInfo[]>>();
  const settings: LocksSettings = { database: "d", holder: "h", leaseMs: 1, heartbeatMs: 1, storeTimeoutMs: 1 };
  const locks: Locks = createLocks(settings);
  await locks.withLease("a", () => 1);
  is<Equal<typeof LEASE_STORE, "leases">>();
  try {
    await locks.acquire("a");
  } catch (error) {
    if (error instanceof LeaseLostError) error.token.toFixed();
    if (error instanceof TimeoutError) is<Equal<typeof error.code, "TIMEOUT">>();
    if (error instanceof LeaseLostError && error.code === "LEASE_BROKEN") throw error.cause;
    if (error instanceof StoreError && error.code === "STORE_BROKEN") location.reload();
    if (error instanceof StoreError && error.code === "STORE_BLOCKED") throw error.cause;
  }
  await acquire("a", { timeout: Infinity, within: lease });
  await tryAcquire("a", { within: lease });
  await locks.withLease("a", { within: await locks.acquire("a") }, () => 1);
  const { release }: { release: () => Promise<void> } = lease;
  await release();
  await fences(lease);
  // @ts-expect-error a name is a string
  await acquire(7);
  // @ts-expect-error there is no such option
  await acquire("a", { mode: "shared" });
  await tryAcquire("a", { scope: "request" });
  // @ts-expect-error a name is no lease
  await acquire("a", { within: "a" });
  // @ts-expect-error there is no such scope
  await acquire("a", { scope: "page" });
  // @ts-expect-error it never waits
  await tryAcquire("a", { timeout: 5 });
  // @ts-expect-error a lease is not made by hand
  lease.token = 7;
}

async function fences(lease: Lease) {
  const raw = {} as IDBDatabase;
  addLeaseStore(raw);
  addLeaseStore(raw, { name: "my_leases" });
  createLocks({ database: raw, store: "my_leases" });
  // @ts-expect-error there is no such option
  addLeaseStore(raw, { store: "my_leases" });
  is<Equal<ReturnType<typeof lease.fence>, Promise<void>>>();
  await lease.fence(raw.transaction(["notes", LEASE_STORE], "readwrite"));
  const count = await lease.transaction("notes", "readonly", (tx) => {
    is<Equal<typeof tx, IDBTransaction>>();
    return 7;
  });
  is<Equal<typeof count, number>>();
  await createLocks({ database: raw }).acquire("a");

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

  // @ts-expect-error it is no transaction
  await lease.fence(raw);
  // @ts-expect-error there is no such mode
  await lease.transaction("notes", "versionchange", () => {});
  // @ts-expect-error it is no database
  createLocks({ database: 7 });
}
