// Stands between the page and the wasm: every call of the wasm's functions, the browser's included, comes
// through here.
import { storeError } from "./errors.js";

/**
 * What to call, once, when the wasm has failed: for every call that waits, and for every lease that is held.
 * @type {Set<() => void>}
 */
export const whenBroken = new Set();

/** @type {{ cause: unknown } | undefined} */
let failure;
let inside = 0;
let first = () => {};

/** The error that every call gets once the wasm has failed; nothing before. */
export const broken = () => failure && storeError("STORE_BROKEN", failure.cause);

/**
 * What is done first whenever the browser calls: our own files do it when the page calls them.
 * @param {() => void} look
 */
export const onEntry = (look) => (first = look);

/**
 * Runs something that asks the wasm, unless the wasm has failed or is running. If it is running, it has
 * called the page, and must not be called again from there.
 * @template T
 * @param {() => T} run
 */
export function whileOutside(run) {
  if (inside || failure) return undefined;
  inside++;
  try {
    return run();
  } finally {
    inside--;
  }
}

/**
 * An exception has left the wasm: a trap, or what a browser's function threw. What was being done there was
 * left half-done, so nothing that it says can be relied on any more.
 * @param {unknown} cause
 */
function fail(cause) {
  if (failure) return;
  failure = { cause };
  for (const tell of [...whenBroken]) tell();
}

/** @type {(run: Function, called: boolean) => Function} */
const guard = (run, called) => (/** @type {unknown[]} */ ...args) => {
  try {
    if (called && !inside) first();
    // The glue takes results apart, so there must be something to take apart.
    if (failure) return [];
    inside++;
    try {
      return run(...args);
    } finally {
      inside--;
    }
  } catch (cause) {
    fail(cause);
    throw cause;
  }
};

/**
 * The exports of the wasm, guarded. The built glue calls this, and names those that cannot fail, and those
 * that the browser calls (see scripts/glue.mjs).
 * @param {object} exports @param {string[]} unfailing @param {string[]} called
 */
export const guarded = (exports, unfailing, called) =>
  Object.fromEntries(
    Object.entries(exports).map(([name, value]) => {
      const plain = typeof value !== "function" || unfailing.includes(name);
      return [name, plain ? value : guard(value, called.includes(name))];
    }),
  );
