// Loads the wasm on first use: once for the page, whoever asks.
import { finish, imports } from "../pkg/tab_lease.js";
import { storeError } from "./errors.js";
import { checkSource, compile } from "./source.js";

/** What the entry brings: a function that gives the source. */
let own;
/** What the page has given. */
let given;
let loaded = false;
let arrived;
const arrival = new Promise((resolve) => (arrived = resolve));
/** Loads under way, by source: one that hangs or fails must not keep another from succeeding. */
const loading = new Map();

/** Used by the entries (index.js, inline.js): where the wasm is unless the page says otherwise. */
export function provide(source) {
  own = source;
}

/** Says where the wasm comes from; see index.d.ts. */
export function setWasm(source) {
  given = checkSource(source);
}

async function start(source) {
  try {
    const instance = await WebAssembly.instantiate(await compile(source), imports());
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

/** Loads the wasm from `source` if given, else from what {@link setWasm} was given, else from the package. */
export async function load(source = given ?? own) {
  if (loaded) return;
  if (!loading.has(source)) loading.set(source, start(source));
  await Promise.race([loading.get(source), arrival]);
}
