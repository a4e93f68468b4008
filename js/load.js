// Loads the wasm on first use: once for the page.
import { finish, imports } from "../pkg/tab_lease.js";
import { storeError } from "./errors.js";
import { checkSource, compile } from "./source.js";

/** @import { WasmInput, WasmSource } from "./index.js" */
/** @import { Source } from "./internal.js" */

/** What the entry brings: a function that gives the source. @type {() => WasmInput} */
let own;
/** What the page has given. @type {WasmSource | undefined} */
let given;
let loaded = false;
/** @type {() => void} */
let arrived;
/** @type {Promise<void>} */
const arrival = new Promise((resolve) => (arrived = resolve));
/**
 * Loads under way, by source: one that hangs or fails must not keep another from succeeding.
 * @type {Map<Source, Promise<void>>}
 */
const loading = new Map();

/**
 * Used by the entries (index.js, inline.js): where the wasm is unless the page says otherwise.
 * @param {() => WasmInput} source
 */
export function provide(source) {
  own = source;
}

/** Says where the wasm comes from; see index.d.ts. @param {WasmSource} source */
export function setWasm(source) {
  given = checkSource(source);
}

/** @param {Source} source */
async function start(source) {
  try {
    const compiled = /** @type {WebAssembly.Module & object} */ (await compile(source));
    const instance = await WebAssembly.instantiate(compiled, imports());
    // The first one is used: leases live in its memory.
    if (!loaded) finish(instance);
    loaded = true;
    arrived();
  } catch (cause) {
    if (!loaded) throw storeError("STORE_LOAD_FAILED", cause);
  } finally {
    // A failure is forgotten, so that the next call tries again.
    loading.delete(source);
  }
}

/** Loads the wasm: from `source`, or from what {@link setWasm} was given, or from the package. */
export async function load(source = given ?? own) {
  if (loaded) return;
  if (!loading.has(source)) loading.set(source, start(source));
  await Promise.race([loading.get(source), arrival]);
}
