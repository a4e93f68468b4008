// What the package exports, by every entry.
export { LEASE_SCHEMA, LEASE_STORE } from "./database.js";
export { LeaseLostError, StoreError, TimeoutError } from "./errors.js";
export { addLeaseStore } from "./lease_store.js";
export { setWasm } from "./load.js";
export { acquire, createLocks, query, tryAcquire, withLease } from "./locks.js";
