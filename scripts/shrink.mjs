// Makes the built package smaller: cuts what a page can never see, then optimises.
//
// A panic in a browser has nowhere to print to: std's hook writes to a stderr that does not exist,
// then traps. Yet the code that formats its message is a fifth of the module, because every panic
// site refers to it. So the functions of `core::fmt` and of the panic machinery are emptied here,
// down to the trap that they would end in, and wasm-opt removes what only they used. That is why
// `src/js.rs` must not format text; the browser tests run on the shrunken module.
//
// Then what only the panics used is cut from the data (dead_data.mjs), and the names that the module and its
// glue call each other by are made short: there are more than a hundred, most with a hash in them, and each
// stands in both.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import binaryen from "binaryen";
import { build as bundled } from "esbuild";
import { zeroDeadData } from "./dead_data.mjs";
import { declarations, renamed, tailored } from "./glue.mjs";
import { must, root, TARGET } from "./lib.mjs";

const UNSEEN = [
  /\bcore(\[\w+\])?::(fmt|panicking|unicode|num::fmt|num::imp::fmt)\b/,
  /\bas core(\[\w+\])?::fmt::/,
  /\bcore(\[\w+\])?::(option|result|cell|slice::index|str)::\w*(fail|failed|panic\w*|count::\w+)\b/,
  /\bstd(\[\w+\])?::(panicking|panic)\b/,
  /\bescape_debug/,
  /\balloc(\[\w+\])?::(raw_vec::handle_error|alloc::handle_alloc_error)\b/,
  /\b(rust_begin_unwind|rust_panic|__rust_start_panic)\b/,
];

/**
 * What rustc's wasm32 target and wasm-bindgen use. wasm-opt refuses a module that uses anything else. All of
 * it is in Safari 15.4: multivalue since 13.1, sign extension and mutable globals since 14.1, bulk memory,
 * non-trapping conversions and reference types since 15.0.
 */
const FEATURES = {
  "bulk-memory": "BulkMemory",
  "bulk-memory-opt": "BulkMemoryOpt",
  "multivalue": "Multivalue",
  "mutable-globals": "MutableGlobals",
  "nontrapping-float-to-int": "NontrappingFPToInt",
  "reference-types": "ReferenceTypes",
  "sign-ext": "SignExt",
};

/** What is changed in the glue that wasm-bindgen generates. */
const PATCHES = [
  // Whatever calls the wasm, the browser's callbacks included, goes through js/guard.js: an exception that
  // leaves the wasm (a trap, or one of a browser function's) is remembered there.
  [/^    wasm = instance\.exports;$/m, "    wasm = guarded(instance.exports, PLAIN, CALLED);"],
  // Fake timers (Jest's default) replace `queueMicrotask` by one that never calls. Where there is none,
  // wasm-bindgen-futures takes promises, which nobody fakes.
  [/(__wbg_queueMicrotask_\w+: function\(arg0\) \{\s+const ret = )arg0\.queueMicrotask;/, "$1undefined;"],
];

function patch(glue) {
  for (const [found, put] of PATCHES) {
    const places = glue.match(new RegExp(found, "gm"))?.length ?? 0;
    if (places !== 1) throw new Error(`the glue has changed: ${found} is there ${places} times, not once`);
    glue = glue.replace(found, put);
  }
  return `import { guarded } from "../js/guard.js";\n${glue}`;
}

/** Empties the functions of {@link UNSEEN}. */
function emptied(wasm) {
  const module = binaryen.readBinary(wasm);
  module.setFeatures(Object.values(FEATURES).reduce((all, name) => all | binaryen.Features[name], 0));
  let count = 0;
  for (let index = 0; index < module.getNumFunctions(); index++) {
    const ref = module.getFunctionByIndex(index);
    const { name, base } = binaryen.getFunctionInfo(ref);
    if (base || !UNSEEN.some((pattern) => pattern.test(name))) continue;
    binaryen.Function.setBody(ref, module.unreachable());
    count++;
  }
  if (count < 20)
    throw new Error(
      `only ${count} functions to empty: the module has lost its names, or Rust has renamed them`,
    );
  const bytes = module.emitBinary();
  module.dispose();
  return bytes;
}

/** `map`: what the linker has put where. */
export async function shrink(map, pkg = join(root, "pkg")) {
  const wasm = join(pkg, "tab_lease_bg.wasm");
  const optimise = (...passes) => {
    const features = Object.keys(FEATURES).map((feature) => `--enable-${feature}`);
    return must("wasm-opt", [...passes, ...features, wasm, "-o", wasm], { quiet: "stdout" });
  };
  writeFileSync(wasm, emptied(readFileSync(wasm)));
  await optimise("-Oz", "--converge", "--strip-debug", "--strip-producers", "--strip-target-features");
  const bytes = readFileSync(wasm);
  zeroDeadData(bytes, map);
  writeFileSync(wasm, bytes);
  // Nothing lives in the first kB of memory: the far end of the stack is there.
  await optimise("-Oz", "--converge", "--low-memory-unused");
  const names = JSON.parse(await optimise("--minify-imports-and-exports-and-modules"));
  const glue = join(pkg, "tab_lease.js");
  const contents = renamed(patch(tailored(readFileSync(glue, "utf8"))), names);
  await bundled({
    // What Rust imports from JavaScript beside it is put in.
    stdin: { contents, resolveDir: pkg },
    external: ["../js/*"],
    outfile: glue,
    allowOverwrite: true,
    format: "esm",
    bundle: true,
    minify: true,
    target: TARGET,
    logLevel: "warning",
  });
  const types = join(pkg, "tab_lease.d.ts");
  writeFileSync(types, declarations(readFileSync(types, "utf8")));
  rmSync(join(pkg, "snippets"), { recursive: true, force: true });
}
