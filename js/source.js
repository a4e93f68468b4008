// What the wasm can be made of: a URL, a response, bytes, a compiled module, or a promise of one.
import { bad } from "./errors.js";

/** @import { WasmInput, WasmSource } from "./index.js" */
/** @import { Source } from "./internal.js" */

/**
 * By its tag, not by `instanceof`: another window's, or Node's under jsdom, will do as well.
 * @param {unknown} value @param {string[]} tags
 */
const isA = (value, ...tags) => tags.includes(Object.prototype.toString.call(value).slice(8, -1));

/** @param {unknown} value @returns {value is string | URL} */
const isUrl = (value) => (typeof value === "string" && value !== "") || isA(value, "URL");

/** @param {unknown} value @returns {value is WasmInput} */
const isSource = (value) =>
  isUrl(value) || ArrayBuffer.isView(value) || isA(value, "Response", "ArrayBuffer", "WebAssembly.Module");

/**
 * A source that a caller gives, checked at once; a promise's value is checked when the wasm is needed.
 * @param {any} [value]
 * @returns {WasmSource}
 */
export function checkSource(value) {
  const promised = typeof value?.then === "function";
  if (!promised && !isSource(value)) {
    throw bad(TypeError, "wasm must be a URL, a Response, bytes, a WebAssembly.Module, or a promise of one");
  }
  // If it rejects before it is needed, the call that needs it says so, and not an "unhandledrejection".
  if (promised && isA(value, "Promise")) value.then(undefined, () => {});
  return value;
}

/**
 * Compiles a source. A function is the package's own, and gives one.
 * @param {Source | undefined} source
 */
export async function compile(source) {
  let given = await (typeof source === "function" ? source() : source);
  if (!isSource(given)) checkSource(); // what a promise was of
  if (isUrl(given)) given = await fetch(given);
  if (isA(given, "Response")) {
    if (given.bodyUsed) {
      throw new TypeError("the Response that was given has been read already: give a new one, or a URL");
    }
    if (!given.ok) throw new Error(`${given.url} was answered with status ${given.status}`);
    // Compiled while it comes in, if the server says what it is.
    if (WebAssembly.compileStreaming && given.headers.get("content-type") === "application/wasm") {
      return WebAssembly.compileStreaming(given);
    }
    given = await given.arrayBuffer();
  }
  return isA(given, "WebAssembly.Module") ? given : WebAssembly.compile(given);
}
