// The entry that brings the wasm along as text: it needs no file, no URL and no network, so it works wherever
// its code runs. `npm run build` makes dist/inline.js and dist/inline.cjs of it, and the text in pkg.
import { decode } from "../pkg/tab_lease_wasm.js";
import { provide } from "./load.js";

provide(decode);

export * from "./exports.js";
