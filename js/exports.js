// What the package exports, by every entry.
export { addLeaseStore, LEASE_STORE } from "./database.js";
export { LeaseLostError, StoreError, TimeoutError } from "./errors.js";
export { setWasm } from "./load.js";
export { acquire, createLocks, query, tryAcquire, withLease } from "./locks.js";
