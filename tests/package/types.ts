// Compiled, not run: the declarations must fit how the package is used, and refuse what it refuses.
import {
  acquire,
  addLeaseStore,
  createLocks,
  LEASE_SCHEMA,
  LEASE_STORE,
  LeaseLostError,
  query,
  setWasm,
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
  is<Equal<typeof LEASE_SCHEMA, ",tab_lease">>();
  is<Equal<typeof lease.token, number>>();
  is<Equal<typeof lease.epoch, number>>();
  is<Equal<typeof lease.dirty, boolean>>();
  is<Equal<typeof lease.signal, AbortSignal>>();
  is<Equal<ReturnType<typeof lease.release>, Promise<void>>>();
  const tried = await tryAcquire("a");
  is<Equal<typeof tried, Lease | null>>();
  const sum = await withLease("a", async (lease) => lease.token + 1);
  is<Equal<typeof sum, number>>();
  const text = await withLease("a", { timeout: 5 }, () => "text");
  is<Equal<typeof text, string>>();
  const { held, pending } = await query();
  is<Equal<typeof held, HeldLockInfo[]>>();
  is<Equal<typeof pending, LockInfo[]>>();
  const settings: LocksSettings = {
    database: "d",
    holder: "h",
    leaseMs: 1,
    heartbeatMs: 1,
    storeTimeoutMs: 1,
    wasm: "/w",
  };
  const locks: Locks = createLocks(settings);
  await locks.withLease("a", () => 1);
  is<Equal<typeof LEASE_STORE, "leases">>();
  try {
    await locks.acquire("a");
  } catch (error) {
    if (error instanceof LeaseLostError) error.token.toFixed();
    if (error instanceof TimeoutError) is<Equal<typeof error.code, "TIMEOUT">>();
    if (error instanceof LeaseLostError && error.code === "LEASE_BROKEN") throw error.cause;
    if (error instanceof StoreError && error.code === "STORE_BROKEN") throw error.cause;
    if (error instanceof StoreError && error.code === "STORE_BLOCKED") throw error.cause;
  }
  await acquire("a", { timeout: Infinity, within: lease });
  await tryAcquire("a", { within: lease });
  await locks.withLease("a", { within: await locks.acquire("a") }, () => 1);
  const { release }: { release: () => Promise<void> } = lease;
  await release();
  await fences(lease);
  loads();
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

function loads() {
  const bytes = new Uint8Array(8);
  setWasm("/tab_lease_bg.wasm");
  setWasm(new URL("https://example.org/tab_lease_bg.wasm"));
  setWasm(new Response(bytes));
  setWasm(fetch("/tab_lease_bg.wasm"));
  setWasm(bytes);
  setWasm(bytes.buffer);
  setWasm(new WebAssembly.Module(bytes));
  createLocks({ wasm: WebAssembly.compile(bytes) });
  // @ts-expect-error it is nothing that the wasm can be made of
  setWasm(7);
  // @ts-expect-error it is nothing that the wasm can be made of
  createLocks({ wasm: null });
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

  // @ts-expect-error it is no transaction
  await lease.fence(raw);
  // @ts-expect-error there is no such mode
  await lease.transaction("notes", "versionchange", () => {});
  // @ts-expect-error it is no database
  createLocks({ database: 7 });
}
