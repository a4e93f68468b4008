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

/** Functions of the wasm that only read or keep books: they cannot fail, and are called often. */
const PLAIN = /^(cuts|rawlease_left|__wbg_get_.*|__wbindgen_(malloc|realloc|free)|__externref.*)$/;
/** What the browser calls: timers, promises, events. */
const CALLED = /invoke/;

/** What wasm-opt calls the module that a module imports from, whatever that was called. */
const MODULE = "a";

/** Calls everything by the names that wasm-opt has given, as it prints them. */
export function renamed(glue, { imports, exports }) {
  const own = "./tab_lease_bg.js";
  const functions = new Map(imports.filter(([module]) => module === own).map(([, name, by]) => [name, by]));
  // What the wasm imports as it is from JavaScript that lies beside the Rust.
  const others = imports.filter(([module]) => module !== own);
  const members = new Map(exports);
  const to = (names) => (whole, before, name) => {
    if (!names.has(name)) throw new Error(`the glue names ${name}, the module does not`);
    return before + names.get(name);
  };
  const from = [...new Set(others.map(([module]) => module))];
  const modules = from.map((module, place) => `import * as other${place} from ${JSON.stringify(module)};\n`);
  const taken = others.map(([module, name, by]) => `${by}: other${from.indexOf(module)}.${name}`);
  const lines = taken.map((line) => `        ${line},\n`).join("");
  const named = /^ {8}"\.\/tab_lease_bg\.js": import0,\n( {8}".*": import\d+,\n)*/m;
  const called = replaced(glue, named, `${MODULE}: import0,\n`)
    .replace(/^import \* as import\d+ from .*\n/gm, "")
    .replace(/^ {4}const import0 = \{\n/m, (start) => start + lines)
    .replace(/^( {8})(__wb\w+)(?=: function)/gm, to(functions))
    .replace(/(\bwasm\.)(\w+)/g, to(members));
  const are = (pattern) => JSON.stringify(exports.filter(([name]) => pattern.test(name)).map(([, by]) => by));
  return `${modules.join("")}${called}\nconst PLAIN = ${are(PLAIN)}, CALLED = ${are(CALLED)};\n`;
}
