// An app's unit tests: the packed tarball under Jest and Vitest, in jsdom and in plain Node, over
// fake-indexeddb. The app is in the folder unit.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { before, test } from "node:test";
import { promisify } from "node:util";
import { root } from "../../scripts/lib.mjs";
import { setupUnit } from "../../scripts/setup.mjs";
import { installPacked } from "./pack.mjs";

const app = join(root, "tests/package/unit");

before(async () => {
  await setupUnit();
  await installPacked(app);
});

/** What the program prints. One that fails, or does not end by itself, is a failure. */
async function prints(args, env) {
  const done = promisify(execFile)("node", args, {
    cwd: app,
    timeout: 120_000,
    env: { ...process.env, CI: "1", ...env },
  });
  // What a test runner found is on its output, not in the error.
  return (await done.catch((error) => assert.fail(`${error.message}\n${error.stdout}\n${error.stderr}`)))
    .stdout;
}

const runs = (tool, args, window) => prints([`node_modules/${tool}`, ...args], { WANT_WINDOW: window });
const jest = (environment, window, ...more) =>
  runs("jest/bin/jest.js", ["--rootDir", "jest", "--env", environment, ...more], window);
const vitest = (environment, window) =>
  runs("vitest/vitest.mjs", ["run", "--root", "vitest", "--environment", environment], window);
const node = (file) => prints([`node/${file}`]);

test("Jest with jsdom", () => jest("jsdom", "object", "--setupFiles", "<rootDir>/setup.js"));
test("Jest without a window", () => jest("node", "undefined"));
test("Vitest with jsdom", () => vitest("jsdom", "object"));
test("Vitest without a window", () => vitest("node", "undefined"));

test("plain Node, by import and by require: it works, and lets the process end", async () => {
  assert.equal(await node("lock.mjs"), "done\n");
  assert.equal(await node("lock.cjs"), "done\n");
});

test("on a server, where there is no IndexedDB: a typed error", async () => {
  assert.equal(await node("server.mjs"), "StoreError STORE_UNAVAILABLE\n");
});
