// `npm test`: installs what is missing, builds, and runs every test there is. `npm test -- native wasm`
// runs only the stages named. Ends with one line that counts them all.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { build } from "./build.mjs";
import { ask, root, run, say, script } from "./lib.mjs";
import { setupTest } from "./setup.mjs";

const count = { passed: 0, failed: 0, skipped: 0 };

/** What some browser cannot, and the tests that are none there for that. */
const cannot = [];

/** Adds what a stage's output counts. One that fails without counting a failure counts as one. */
function tally({ code, text }, patterns) {
  const stage = { passed: 0, failed: 0, skipped: 0 };
  for (const [kind, pattern] of patterns) {
    for (const [, number] of text.matchAll(pattern)) stage[kind] += Number(number);
  }
  if (code !== 0 && stage.failed === 0) stage.failed = 1;
  if (code === 0 && stage.passed === 0) {
    console.error("✗ no test was run");
    stage.failed = 1;
  }
  for (const kind in count) count[kind] += stage[kind];
}

const CARGO = [
  ["passed", /^test result: .*? (\d+) passed/gm],
  ["failed", /^test result: .*? (\d+) failed/gm],
  ["skipped", /^test result: .*? (\d+) ignored/gm],
];
const NODE = [
  ["passed", /^# pass (\d+)/gm],
  ["failed", /^# (?:fail|cancelled) (\d+)/gm],
  ["skipped", /^# (?:skipped|todo) (\d+)/gm],
];

async function check(command, args) {
  const { code } = await run(command, args);
  count[code === 0 ? "passed" : "failed"]++;
}

async function nodeTests(folder, { only, without = [], extraEnv } = {}) {
  const found = readdirSync(join(root, folder)).filter((file) => file.endsWith(".test.mjs"));
  const files = only ?? found.filter((file) => !without.includes(file));
  const args = ["--test", "--test-concurrency=1", "--test-timeout=300000", "--test-reporter=tap"];
  const done = await run("node", [...args, ...files.sort().map((file) => join(folder, file))], {
    tee: true,
    extraEnv,
  });
  tally(done, NODE);
  cannot.push(...[...done.text.matchAll(/^# (\w+ cannot .*)/gm)].map(([, line]) => line));
}

/** What only Chromium has or its DevTools can do, and the benchmark. */
const CHROMIUM = ["bench.test.mjs", "fence_stops.test.mjs", "prerender.test.mjs", "torture.test.mjs"];
/** What takes minutes of doing little: it runs beside the others. */
const LONG = "hidden.test.mjs";

/** The scenarios in real tabs of one engine. */
async function engineTests(engine) {
  const extraEnv = { TAB_LEASE_ENGINE: engine };
  const without = [LONG, ...(engine === "chromium" ? [] : CHROMIUM)];
  await Promise.all([
    nodeTests("tests/browser", { only: [LONG], extraEnv }),
    nodeTests("tests/browser", { without, extraEnv }),
  ]);
}

/** The store contract in a window, a dedicated worker and a shared worker of one browser. */
async function wasmTests(...browser) {
  const files = readdirSync(join(root, "tests")).filter((file) => /^indexed_db_.*\.rs$/.test(file));
  const tests = files.flatMap((file) => ["--test", file.slice(0, -".rs".length)]);
  const extraEnv = { WASM_BINDGEN_TEST_TIMEOUT: "120" };
  tally(
    await run("wasm-pack", ["test", "--headless", ...browser, "--", ...tests], { tee: true, extraEnv }),
    CARGO,
  );
}

const STAGES = {
  lint: async () => {
    const clippy = ["clippy", "--all-targets", "--quiet"];
    await check("cargo", ["fmt", "--check"]);
    await check("cargo", [...clippy, "--", "-D", "warnings"]);
    const wasm = ["--target", "wasm32-unknown-unknown", "--features", "npm"];
    await check("cargo", [...clippy, ...wasm, "--", "-D", "warnings"]);
    await check("oxlint", ["js", "src", "scripts", "tests"]);
    await check("tsc", ["-p", "."]);
    await nodeTests("tests/tidy");
  },
  native: async () => tally(await run("cargo", ["test"], { tee: true }), CARGO),
  wasm: async () => {
    await wasmTests("--chrome", "--chromedriver", ask("which", ["chromedriver"]));
    await wasmTests("--firefox", "--geckodriver", ask("which", ["geckodriver"]));
  },
  browser: () => engineTests("chromium"),
  firefox: () => engineTests("firefox"),
  webkit: () => engineTests("webkit"),
  package: () => nodeTests("tests/package"),
};

const WHAT = {
  lint: "cargo fmt and clippy, native and wasm32; oxlint and tsc over the JavaScript; that the house is tidy",
  native: "the rules, the lock and the memory store, natively",
  wasm: "the IndexedDB store in Chromium and Firefox: window, dedicated worker, shared worker",
  browser: "real Chromium tabs, and the benchmark",
  firefox: "the same scenarios in real Firefox tabs",
  webkit: "the same scenarios in real WebKit tabs",
  package: "the packed tarball: bundled, in apps' unit tests, its types, its syntax",
};

script(async () => {
  const stages = process.argv.slice(2);
  for (const stage of stages) {
    if (!(stage in STAGES))
      throw new Error(`there is no stage "${stage}", but ${Object.keys(STAGES).join(", ")}`);
  }
  await setupTest();
  await build();
  for (const stage of stages.length > 0 ? stages : Object.keys(STAGES)) {
    say(`${stage}: ${WHAT[stage]}`);
    try {
      await STAGES[stage]();
    } catch (error) {
      console.error(`✗ ${error.message}`);
      count.failed++;
    }
  }
  if (cannot.length > 0)
    console.log(`\nNot shown in every browser:\n${cannot.map((line) => `  ${line}`).join("\n")}`);
  console.log(`\n${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
  if (count.failed > 0) process.exitCode = 1;
});
