// Makes dist/: what npm users import, each entry in one file.
import { copyFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { root, TARGET } from "./lib.mjs";
import { wasmModule } from "./wasm_text.mjs";

export async function bundle() {
  const at = (file) => join(root, file);
  writeFileSync(at("pkg/tab_lease_wasm.js"), wasmModule(readFileSync(at("pkg/tab_lease_bg.wasm"))));
  writeFileSync(at("pkg/tab_lease_wasm.d.ts"), "export function decode(): Uint8Array<ArrayBuffer>;\n");
  rmSync(at("dist"), { recursive: true, force: true });
  const make = (entry, outfile, format) =>
    build({
      entryPoints: [at(entry)],
      outfile: at(outfile),
      format,
      bundle: true,
      minify: true,
      target: TARGET,
      legalComments: "none",
      logLevel: "warning",
    });
  await make("js/index.js", "dist/index.js", "esm");
  await make("js/inline.js", "dist/inline.js", "esm");
  await make("js/inline.js", "dist/inline.cjs", "cjs");
  // TypeScript takes a declaration's module format from its name.
  copyFileSync(at("js/index.d.ts"), at("dist/index.d.cts"));
}
