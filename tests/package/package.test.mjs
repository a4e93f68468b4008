// What npm users get: the packed tarball in a bare Vite app, built and run in Chromium, and its types.
// The app's code is the README's examples.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build, createServer } from "vite";
import { must, root } from "../../scripts/lib.mjs";
import { serve } from "../../scripts/serve.mjs";
import { launch } from "../browser/chromium.mjs";
import { installPacked } from "./pack.mjs";

let browser, app, files;

before(async () => {
  browser = await launch();
  app = mkdtempSync(join(tmpdir(), "tab-lease-app-"));
  files = await installPacked(app);
  mkdirSync(join(app, "src"));
  writeFileSync(join(app, "package.json"), JSON.stringify({ name: "app", private: true, type: "module" }));

  // What its users bring themselves.
  for (const wrapper of ["idb", "dexie"]) {
    cpSync(join(root, "node_modules", wrapper), join(app, "node_modules", wrapper), { recursive: true });
  }

  const readme = readFileSync(join(root, "README.md"), "utf8");
  const examples = [...readme.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
  assert.equal(examples.length, 6);
  examples.forEach((code, n) => writeFileSync(join(app, `src/example${n}.js`), code));
  const imports = examples.map((_, n) => `await import("./example${n}.js");`).join("\n");
  writeFileSync(
    join(app, "src/main.js"),
    `(async () => {\n${imports}\n})()
      .then(() => "done", (error) => String(error.stack ?? error))
      .then((end) => (window.ready = end));\n`,
  );
  writeFileSync(
    join(app, "index.html"),
    '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/src/main.js"></script>',
  );
});

after(async () => {
  await browser.close();
  rmSync(app, { recursive: true, force: true });
});

/** Opens the app and lets its examples run. */
async function runs(origin) {
  const lines = [];
  const tab = await browser.open("/tests/browser/page.html");
  tab.on("console", (message) => lines.push(message.text()));
  await tab.goto(origin);
  await tab.waitForFunction(() => window.ready);
  const end = await tab.evaluate(() => window.ready);
  await tab.close();
  return { end, lines };
}

test("the tarball holds what is needed, and nothing else", () => {
  assert.deepEqual(files, [
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "dist/index.d.cts",
    "dist/index.js",
    "dist/inline.cjs",
    "dist/inline.js",
    "js/activation.js",
    "js/arguments.js",
    "js/bounded.js",
    "js/database.js",
    "js/errors.js",
    "js/exports.js",
    "js/guard.js",
    "js/index.d.ts",
    "js/index.js",
    "js/internal.d.ts",
    "js/lease.js",
    "js/lease_store.js",
    "js/load.js",
    "js/locks.js",
    "js/names.js",
    "js/platform.js",
    "js/signal.js",
    "js/source.js",
    "package.json",
    "pkg/tab_lease.js",
    "pkg/tab_lease_bg.wasm",
  ]);
});

/** The app imports "tab-lease"; here, the other entry in its place. */
const entries = {
  "tab-lease": {},
  "tab-lease/lean": { resolve: { alias: [{ find: /^tab-lease$/, replacement: "tab-lease/lean" }] } },
};

for (const [entry, config] of Object.entries(entries)) {
  test(`a bare Vite app, built, with ${entry}: the README's examples run`, async () => {
    await build({ root: app, logLevel: "warn", build: { target: "es2022" }, ...config });
    const file = readdirSync(join(app, "dist/assets")).find((file) => file.endsWith(".wasm"));
    assert.equal(file !== undefined, entry === "tab-lease/lean");
    const served = await serve({ base: join(app, "dist"), folders: ["."], home: "/index.html" });
    try {
      const { end, lines } = await runs(`${served.origin}/`);
      assert.equal(end, "done");
      assert.ok(lines.includes("visit 1"), lines.join("\n"));
      assert.ok(lines.includes("saved"), lines.join("\n"));
    } finally {
      await served.close();
    }
  });

  test(`the same app in Vite's development server, with ${entry}`, async () => {
    const server = await createServer({
      root: app,
      logLevel: "error",
      server: { host: "127.0.0.1", port: 0 },
      ...config,
    });
    await server.listen();
    try {
      const { end, lines } = await runs(`http://127.0.0.1:${server.httpServer.address().port}/`);
      assert.equal(end, "done", lines.join("\n"));
    } finally {
      await server.close();
    }
  });
}

test("importing it touches nothing: it works where there is no browser", async () => {
  const script = `
    const before = Object.getOwnPropertyNames(globalThis).length;
    const { acquire, createLocks } = await import("tab-lease");
    createLocks({ leaseMs: 5_000 });
    const error = await acquire("").catch((error) => error);
    if (!(error instanceof TypeError) || error.code !== "BAD_ARGUMENT") throw error;
    if (Object.getOwnPropertyNames(globalThis).length !== before) throw new Error("a global was added");`;
  writeFileSync(join(app, "server.mjs"), script);
  await must("node", ["server.mjs"], { cwd: app, quiet: true });
});

/** Each compiler that is tried, by the name of its package. */
const COMPILERS = ["typescript-5.0", "typescript-5.9", "typescript"];
const BUNDLER = "--module esnext --moduleResolution bundler";

/** Compiles one of the files here as strictly as can be, declarations included. */
async function compiles(compiler, file, lib, resolution = BUNDLER) {
  cpSync(join(root, "tests/package", file), join(app, "src", file));
  const strict = "--noEmit --strict --exactOptionalPropertyTypes --target es2022 --skipLibCheck false";
  const options = `${strict} --lib ${lib} ${resolution}`;
  const tsc = join(root, "node_modules", compiler, "bin/tsc");
  await must("node", [tsc, ...options.split(" "), `src/${file}`], { cwd: app, quiet: true });
}

for (const compiler of COMPILERS) {
  test(`the types are as they are used, with the library of ES2022: ${compiler}`, async () => {
    await compiles(compiler, "types.ts", "es2022,dom,dom.iterable");
    await compiles(compiler, "types.ts", "es2022,webworker,webworker.iterable");
  });

  test(`require has types: ${compiler}`, () =>
    compiles(compiler, "required.cts", "es2022,dom", "--module nodenext"));

  // It cannot parse `await using`, nor idb's declarations.
  if (compiler === "typescript-5.0") continue;
  test(`the types fit idb's and Dexie's: ${compiler}`, () =>
    compiles(compiler, "wrappers.ts", "es2022,dom,dom.iterable"));

  test(`await using, for those who have its library: ${compiler}`, async () => {
    await compiles(compiler, "using.ts", "es2022,dom,esnext.disposable");
    await compiles(compiler, "using.ts", "esnext,dom");
  });
}
