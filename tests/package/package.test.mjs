// What npm users get: the packed tarball, installed into a bare Vite app, built and run in Chromium.
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

let browser, app, packed;

before(async () => {
  browser = await launch();
  app = mkdtempSync(join(tmpdir(), "tab-lease-app-"));
  packed = JSON.parse(await must("npm", ["pack", "--json", "--pack-destination", app], { quiet: "stdout" }));
  packed = Object.values(packed)[0];
  mkdirSync(join(app, "src"));
  writeFileSync(join(app, "package.json"), JSON.stringify({ name: "app", private: true, type: "module" }));
  await must("npm", ["install", "--no-audit", "--no-fund", join(app, packed.filename)], { cwd: app, quiet: true });

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
    `(async () => {\n${imports}\n})().then(() => "done", (error) => String(error.stack ?? error)).then((end) => (window.ready = end));\n`,
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
  const files = packed.files.map(({ path }) => path).sort();
  assert.deepEqual(files, [
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "js/activation.js",
    "js/arguments.js",
    "js/bounded.js",
    "js/database.js",
    "js/errors.js",
    "js/guard.js",
    "js/index.d.ts",
    "js/index.js",
    "js/lease.js",
    "js/load.js",
    "js/locks.js",
    "js/names.js",
    "js/signal.js",
    "package.json",
    "pkg/tab_lease.js",
    "pkg/tab_lease_bg.wasm",
  ]);
});

test("a bare Vite app, built: the README's examples run", async () => {
  await build({ root: app, logLevel: "warn", build: { target: "es2022" } });
  assert.ok(readdirSync(join(app, "dist/assets")).some((file) => file.endsWith(".wasm")));
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

test("the same app in Vite's development server", async () => {
  const server = await createServer({ root: app, logLevel: "error", server: { host: "127.0.0.1", port: 0 } });
  await server.listen();
  try {
    const { end, lines } = await runs(`http://127.0.0.1:${server.httpServer.address().port}/`);
    assert.equal(end, "done", lines.join("\n"));
  } finally {
    await server.close();
  }
});

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

test("the types are as they are used", async () => {
  cpSync(join(root, "tests/package/types.ts"), join(app, "src/types.ts"));
  const options = "--noEmit --strict --target es2022 --lib esnext,dom --module esnext --moduleResolution bundler --skipLibCheck false";
  await must("tsc", [...options.split(" "), "src/types.ts"], { cwd: app, quiet: true });
});
