// tab-lease: cross-tab locks on leases kept in IndexedDB. See README.md; types in index.d.ts.
//
// These files check arguments, load the wasm on first use and make platform-like objects of what comes
// back. Every decision about a lock is made in Rust (src/rules.rs, src/participant.rs). Importing them
// touches nothing: no browser global is read before the first call.
export { LEASE_SCHEMA, LEASE_STORE } from "./database.js";
export { LeaseLostError, StoreError, TimeoutError } from "./errors.js";
export { addLeaseStore } from "./lease_store.js";
export { acquire, createLocks, query, tryAcquire, withLease } from "./locks.js";
