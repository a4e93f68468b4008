// Loads the wasm on first use.
import init from "../pkg/tab_lease.js";
import { storeError } from "./errors.js";

let loading;

/** Loads the wasm once; a failure is forgotten, so that the next call tries again. */
export function load() {
  loading ??= init().catch((cause) => {
    loading = undefined;
    throw storeError("STORE_LOAD_FAILED", cause);
  });
  return loading;
}
