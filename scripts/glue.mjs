// What is cut from the JavaScript that wasm-bindgen generates, before it is minified.

/** Replaces what must be there: another wasm-bindgen may write it differently, and that should be noticed. */
function replaced(text, pattern, by) {
  if (!pattern.test(text)) throw new Error(`the glue has changed: ${pattern} is not in it`);
  return text.replace(pattern, by);
}

/**
 * js/load.js fetches and instantiates; the glue's own ways of doing that go, and with them its URL of the
 * .wasm, which every bundler would take for a file to copy.
 */
function withoutLoading(glue) {
  const exported = "export { __wbg_finalize_init as finish, __wbg_get_imports as imports };\n";
  return replaced(glue, /^async function __wbg_load[\s\S]*$/m, exported);
}

/** Makes do with what stands in for a browser in tests. */
function withoutBrowser(glue) {
  // What a stand-in lacks.
  const platform = 'import { BroadcastChannel, TextDecoder, TextEncoder } from "../js/platform.js";\n';
  // Under jsdom, bytes that come out of the store are of Node's class, not of the window's.
  const isBytes = 'Object.prototype.toString.call(arg0) === "[object Uint8Array]"';
  return platform + replaced(glue, /arg0 instanceof Uint8Array/, isBytes);
}

/** The declarations that wasm-bindgen generates, of what is left: js/ is checked against them. */
export function declarations(text) {
  const exported = [
    "export function imports(): WebAssembly.Imports;",
    "export function finish(instance: WebAssembly.Instance): void;",
  ];
  return replaced(text, /^export type InitInput[\s\S]*$/m, `${exported.join("\n")}\n`);
}

export const tailored = (glue) => withoutBrowser(withoutLoading(glue));
