// tab-lease: cross-tab locks on leases kept in IndexedDB. See README.md; types in index.d.ts.
//
// These files check arguments, load the wasm on first use and make platform-like objects of what comes
// back. Every decision about a lock is made in Rust (src/rules.rs, src/participant). Importing them
// touches nothing: no browser global is read before the first call.
//
// This entry (`tab-lease/lean`; as a folder of modules, without a build, too) fetches the wasm as a file.
import { provide } from "./load.js";

// In this form, and in no other, bundlers see it and copy the file.
provide(() => new URL("../pkg/tab_lease_bg.wasm", import.meta.url));

export * from "./exports.js";
