// Builds the wasm that the package ships, and prints what a visitor's page will download.
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { brotliCompressSync } from "node:zlib";
import { env, must, root, say, script } from "./lib.mjs";
import { setupBuild } from "./setup.mjs";

/** Everything that importing the package makes a page download. */
const SHIPPED = [
  "pkg/tab_lease_bg.wasm",
  "pkg/tab_lease.js",
  ...readdirSync(join(root, "js")).filter((file) => file.endsWith(".js")).map((file) => `js/${file}`),
];

/**
 * The most that all of it may weigh, brotli-compressed, in bytes. Eleven thousand of it are the one-hop
 * hand-over, beacons and idle leases; nine thousand what becomes of pages that are hidden, stopped or
 * hung: notes, the page's events, the watch, databases that are closed by others; seven thousand fenced
 * transactions: their check and its wiring, renewals that queue behind them, and the JavaScript around it.
 */
const BUDGET = 84_000;

const folders = (folder) => (existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : []);

export async function build() {
  await setupBuild();
  say("wasm-pack build: Rust → pkg/ (WebAssembly and its JavaScript glue)");
  // Panic sites carry the path of their source file: the same on every machine, and short.
  const registry = join(env.CARGO_HOME ?? join(homedir(), ".cargo"), "registry/src");
  const RUSTFLAGS = [registry, ...folders(registry)].map((folder) => `--remap-path-prefix=${folder}/=`).join(" ");
  await must("wasm-pack", [
    ..."build --release --target web --no-pack --no-typescript --out-dir pkg .".split(" "),
    ..."--features npm".split(" "),
  ], { extraEnv: { RUSTFLAGS } });
  say("shrink: without what a page cannot see, then wasm-opt -Oz");
  const { shrink } = await import("./shrink.mjs");
  await shrink();
  // It would keep npm from packing the folder.
  rmSync(join(root, "pkg/.gitignore"), { force: true });
  const kB = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
  let total = 0;
  for (const file of SHIPPED) {
    const bytes = readFileSync(join(root, file));
    const brotli = brotliCompressSync(bytes).length;
    total += brotli;
    console.log(`  ${file.padEnd(24)} ${kB(bytes.length).padStart(9)} → ${kB(brotli).padStart(8)} brotli`);
  }
  console.log(`  ${"a page downloads".padEnd(24)} ${"".padStart(9)}   ${kB(total).padStart(8)} brotli (at most ${kB(BUDGET)})`);
  if (total > BUDGET) throw new Error("the package has grown over its size budget");
}

if (process.argv[1] === import.meta.filename) script(build);
