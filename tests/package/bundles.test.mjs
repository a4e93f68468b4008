// The packed tarball, bundled in the ways that leave no file and no URL of a module, and run in Chromium.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build as esbuild } from "esbuild";
import { build as vite } from "vite";
import { serve } from "../../scripts/serve.mjs";
import { launch } from "../browser/chromium.mjs";
import { installPacked } from "./pack.mjs";

/** Holds a lock once, and says how that ended. */
const trial = (entry, end) => `
  import { withLease } from "${entry}";
  withLease("a", { timeout: 10_000 }, () => "held").then(
    (value) => ${end}(value),
    (error) => ${end}(error.code + ": " + error.cause),
  );`;

let app, browser, served;

before(async () => {
  app = mkdtempSync(join(tmpdir(), "tab-lease-bundles-"));
  await installPacked(app);
  browser = await launch();
  // Like many a development server, it answers what it does not know with its page.
  served = await serve({
    base: app,
    folders: ["out"],
    answer: (request, response) => {
      if (!request.url.endsWith(".wasm")) return false;
      response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>");
      return true;
    },
  });
  mkdirSync(join(app, "out"));
});

after(async () => {
  await served?.close();
  await browser?.close();
  rmSync(app, { recursive: true, force: true });
});

const put = (file, text) => writeFileSync(join(app, file), text);

/** Bundles the code as most do: one command, no loader, no plugin. */
async function bundle(code, options) {
  const stdin = { contents: code, resolveDir: app };
  const outdir = join(app, "out");
  return (await esbuild({ stdin, bundle: true, write: false, logLevel: "warning", outdir, ...options }))
    .outputFiles;
}

/** What the page with that script says in the end. */
async function says(script, file = "out/index.html") {
  if (script) put(file, `<!doctype html><link rel="icon" href="data:,">${script}`);
  const tab = await browser.open("/tests/browser/page.html");
  try {
    await tab.goto(`${served.origin}/${file}`);
    await tab.waitForFunction(() => window.end, undefined, { timeout: 20_000 });
    return await tab.evaluate(() => window.end);
  } finally {
    await tab.close();
  }
}

const page = (entry) => trial(entry, "((end) => (globalThis.end = end))");
const worker = (entry) => trial(entry, "postMessage");
const started = (made) => `
  const worker = ${made};
  worker.onmessage = ({ data }) => (globalThis.end = data);
  worker.onerror = ({ message }) => (globalThis.end = message);`;

for (const minify of [false, true]) {
  const how = minify ? ", minified" : "";
  test(`esbuild, a module${how}`, async () => {
    const [{ text }] = await bundle(page("tab-lease"), { format: "esm", minify });
    put("out/app.js", text);
    assert.equal(await says('<script type="module" src="app.js"></script>'), "held");
  });

  test(`esbuild, a plain script (IIFE)${how}`, async () => {
    const [{ text }] = await bundle(page("tab-lease"), { format: "iife", minify });
    put("out/app.js", text);
    assert.equal(await says('<script src="app.js"></script>'), "held");
    // Inside of a page, too: there is nothing in it that ends a script.
    assert.doesNotMatch(text, /<\/script|<!--/i);
    assert.equal(await says(`<script>${text}</script>`), "held");
  });
}

test("esbuild, from code that requires it", async () => {
  const code = page("tab-lease").replace(/import (.*) from (".*");/, "const $1 = require($2);");
  const [{ text }] = await bundle(code, { format: "iife" });
  put("out/app.js", text);
  assert.equal(await says('<script src="app.js"></script>'), "held");
});

for (const [format, type] of [["esm", "module"], ["iife", "classic"]]) {
  test(`a ${type} worker made of a blob`, async () => {
    const [{ text }] = await bundle(worker("tab-lease"), { format });
    const blob = 'new Blob([code], { type: "text/javascript" })';
    const made = `new Worker(URL.createObjectURL(${blob}), { type: "${type}" })`;
    put("out/app.js", `const code = ${JSON.stringify(text)}; ${started(made)}`);
    assert.equal(await says('<script src="app.js"></script>'), "held");
  });
}

test("no bundle, no bundler: the entry as one file", async () => {
  put("out/inline.js", readFileSync(join(app, "node_modules/tab-lease/dist/inline.js")));
  const code = page("./inline.js");
  assert.equal(await says(`<script type="module">${code}</script>`), "held");
});

test("Vite: a worker in a file, and one inlined as a blob", async () => {
  put("worker.js", worker("tab-lease"));
  put("file.js", started('new Worker(new URL("./worker.js", import.meta.url), { type: "module" })'));
  put("blob.js", `import Made from "./worker.js?worker&inline"; ${started("new Made()")}`);
  const input = ["file", "blob"].map((kind) => {
    put(`${kind}.html`, `<link rel="icon" href="data:,"><script type="module" src="./${kind}.js"></script>`);
    return join(app, `${kind}.html`);
  });
  await vite({
    root: app,
    base: "./",
    logLevel: "error",
    build: { outDir: "out/vite", rollupOptions: { input } },
  });
  assert.equal(await says(undefined, "out/vite/file.html"), "held");
  assert.equal(await says(undefined, "out/vite/blob.html"), "held");
});

test("tab-lease/lean: small, and it says so when its file is not there", async () => {
  const [{ text, contents }] = await bundle(page("tab-lease/lean"), { format: "esm", minify: true });
  assert.ok(contents.length < 40_000, `${contents.length} bytes`);
  put("out/app.js", text);
  assert.match(
    await says('<script type="module" src="app.js"></script>'),
    /^STORE_LOAD_FAILED: CompileError/,
  );
});

test("code that imports the package and uses nothing of it carries nothing of it", async () => {
  const [{ contents }] = await bundle('import { withLease } from "tab-lease"; console.log("nothing");', {
    minify: true,
  });
  assert.ok(contents.length < 100, `${contents.length} bytes`);
});
