// `npm run bench`: installs what is missing, builds, measures the package side by side with its peers,
// and writes what came out to bench/ and to the README. `npm run bench -- --quick` is a smoke run of
// less than a minute that only prints; `--rounds 3` measures three rounds, `--no-build` takes pkg/ as it is,
// `--before FOLDER` measures another checkout, built, beside this one.
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, type } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ask, root, say, script } from "./lib.mjs";

const BEGIN = "<!-- bench:begin -->";
const END = "<!-- bench:end -->";

const read = (file) => readFileSync(join(root, file), "utf8");
const write = (file, content) => writeFileSync(join(root, file), content);

function machine() {
  const distribution = ask("sh", ["-c", '. /etc/os-release && echo "$PRETTY_NAME"']);
  return { cpu: cpus()[0].model.trim(), cores: cpus().length, os: distribution || `${type()} ${release()}` };
}

/** The versions measured, as installed; of this package also the commit. */
function packages(peers) {
  const version = (file) => JSON.parse(read(file)).version;
  const commit = ask("git", ["describe", "--always", "--dirty", "--exclude=*"]);
  const own = `${version("package.json")}${commit ? ` (${commit})` : ""}`;
  return Object.fromEntries([
    ["tab-lease", own],
    ...peers.map((name) => [name, version(`node_modules/${name}/package.json`)]),
  ]);
}

/** Replaces what is between the markers. */
function intoReadme(content) {
  const readme = read("README.md");
  const [begin, end] = [readme.indexOf(BEGIN), readme.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`README.md has lost its markers ${BEGIN} and ${END}`);
  write("README.md", `${readme.slice(0, begin + BEGIN.length)}\n${content}\n${readme.slice(end)}`);
}

script(async () => {
  const { values: flags } = parseArgs({
    options: {
      quick: { type: "boolean" },
      rounds: { type: "string" },
      "no-build": { type: "boolean" },
      before: { type: "string" },
    },
  });
  const { quick } = flags;
  const wanted = flags.rounds === undefined ? {} : { rounds: Number(flags.rounds) };
  if (wanted.rounds !== undefined && !(wanted.rounds >= 1)) throw new Error("--rounds needs a number");
  if (!flags["no-build"]) {
    const { setupTest } = await import("./setup.mjs");
    const { build } = await import("./build.mjs");
    await setupTest();
    await build();
  }
  // What they import is installed by now.
  const { measure, FULL, QUICK } = await import("../bench/measure.mjs");
  const { summarise } = await import("../bench/summary.mjs");
  const { beforeTable, manyTable, readmeTable, results, targetTable } = await import("../bench/report.mjs");
  const { chart } = await import("../bench/chart.mjs");

  const plan = { ...(quick ? QUICK : FULL), ...wanted };
  const date = new Date().toISOString().slice(0, 10);
  const measured = await measure(plan, { say, before: flags.before && resolve(flags.before) });
  if (measured.hidden > 0)
    throw new Error(`${measured.hidden} tabs were hidden: their timers were throttled`);
  if (measured.coarse > 0)
    throw new Error(`${measured.coarse} tabs were not cross-origin isolated: their clock is coarse`);
  const run = {
    date,
    machine: machine(),
    versions: {
      browser: measured.browser.replace("/", " "),
      packages: packages(["browser-tabs-lock", "idb-mutex", "navigator.locks"]),
    },
    rounds: measured.rounds.length,
    plan,
    summary: summarise(measured),
  };
  const { summary } = run;
  const tables = [readmeTable(run), targetTable(summary.targets), manyTable(summary), beforeTable(summary)];
  console.log(`\n${tables.join("\n\n")}\n`);
  const met = run.summary.targets.filter(({ met }) => met).length;
  console.log(`${met} of ${run.summary.targets.length} targets met`);
  if (quick) return;
  // Infinity (a tab that got no turn) is null in JSON.
  write("bench/results.json", `${JSON.stringify(run, null, 2)}\n`);
  write("bench/results.svg", chart(run));
  write("bench/RESULTS.md", results(run));
  intoReadme(readmeTable(run));
  say("written: bench/RESULTS.md, bench/results.svg, bench/results.json, README.md");
});
