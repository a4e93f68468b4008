// Builds the wasm that the package ships, and prints what a visitor's page will download.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { brotliCompressSync } from "node:zlib";
import { env, must, root, say, script } from "./lib.mjs";
import { setupBuild } from "./setup.mjs";

/** What a page downloads, for each entry: its files, and the most that they may weigh, in bytes of brotli. */
const ENTRIES = {
  // As text, the wasm weighs 1 kB more.
  "tab-lease": { files: ["dist/inline.js"], budget: 63_000 },
  "tab-lease/lean": { files: ["dist/index.js", "pkg/tab_lease_bg.wasm"], budget: 62_000 },
};

const folders = (folder) => (existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : []);

/**
 * Compiles to pkg/. As `wasm-pack build` does it, but for the library's kind: made for Rust programs as well
 * (Cargo.toml says so), it is linked without link-time optimisation, and weighs 7 kB more (brotli).
 */
async function compile() {
  const metadata = ["metadata", "--no-deps", "--format-version=1"];
  const { target_directory } = JSON.parse(await must("cargo", metadata, { quiet: "stdout" }));
  // A folder of its own: the other kind of library would be of the same name.
  const target = join(target_directory, "npm");
  const map = join(target, "tab_lease.map");
  // Panic sites carry the path of their source file: the same on every machine, and short.
  const registry = join(env.CARGO_HOME ?? join(homedir(), ".cargo"), "registry/src");
  const RUSTFLAGS = [registry, ...folders(registry)]
    .map((folder) => `--remap-path-prefix=${folder}/=`)
    .join(" ");
  await must(
    "cargo",
    [
      ..."rustc --lib --release --target wasm32-unknown-unknown --features npm".split(" "),
      ...["--crate-type", "cdylib", "--target-dir", target, "--", "-C", `link-arg=-Map=${map}`],
    ],
    { extraEnv: { RUSTFLAGS } },
  );
  const wasm = join(target, "wasm32-unknown-unknown/release/tab_lease.wasm");
  await must("wasm-bindgen", [wasm, ..."--target web --out-dir pkg".split(" ")]);
  return map;
}

export async function build() {
  await setupBuild();
  say("cargo, wasm-bindgen: Rust → pkg/ (WebAssembly and its JavaScript glue)");
  const map = await compile();
  say("shrink: without what a page cannot see, then wasm-opt -Oz");
  const { shrink } = await import("./shrink.mjs");
  await shrink(map);
  say("bundle: js/ → dist/, one file an entry");
  const { bundle } = await import("./bundle.mjs");
  await bundle();
  weigh();
}

/** Prints what the entries weigh; throws if one is too heavy. */
function weigh() {
  const kB = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
  const line = (what, bytes, brotli) =>
    console.log(`  ${what.padEnd(24)} ${bytes.padStart(10)} → ${kB(brotli).padStart(8)} brotli`);
  for (const [entry, { files, budget }] of Object.entries(ENTRIES)) {
    let total = 0;
    for (const file of files) {
      const bytes = readFileSync(join(root, file));
      const brotli = brotliCompressSync(bytes).length;
      total += brotli;
      line(file, kB(bytes.length), brotli);
    }
    line(`= ${entry}`, `of ${kB(budget)}`, total);
    if (total > budget) throw new Error(`${entry} has grown over its size budget`);
  }
}

if (process.argv[1] === import.meta.filename) script(build);
