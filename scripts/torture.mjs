// `npm run torture -- --seed S --minutes M`: kills, hangs, hides, freezes, reloads, … real tabs that
// contend for locks in all kinds of contexts, and judges their log. Without a seed it takes a new one.
// `--replay FILE` does again what the log says was done; `--no-lock` leaves the lock out, to see what is
// found then; `--no-build` takes pkg/ as it is.
import { parseArgs } from "node:util";
import { keep, replayed } from "../tests/browser/torture/journal.mjs";
import { say, script } from "./lib.mjs";

script(async () => {
  const { values: flags } = parseArgs({
    options: {
      seed: { type: "string" },
      minutes: { type: "string", default: "10" },
      replay: { type: "string" },
      "no-lock": { type: "boolean" },
      "no-build": { type: "boolean" },
    },
  });
  const ms = Number(flags.minutes) * 60_000;
  if (!(ms > 0)) throw new Error("--minutes needs a number");
  const plan = flags.replay ? replayed(flags.replay) : { seed: flags.seed ?? String(Date.now()), ms };
  if (!flags["no-build"]) {
    const { setupTest } = await import("./setup.mjs");
    const { build } = await import("./build.mjs");
    await setupTest();
    await build();
  }
  // What it imports is installed by now.
  const { torture } = await import("../tests/browser/torture/director.mjs");
  const { summary } = await import("../tests/browser/torture/verdict.mjs");
  say(`torture: seed ${plan.seed}, ${plan.ms / 60_000} min`);
  const run = await torture({ ...plan, locked: !flags["no-lock"], say });
  // The log that is replayed is not overwritten.
  const file = keep(run, flags.replay ? "-again" : "");
  console.log(`\n${summary(run)}\nlog: ${file} (again: npm run torture -- --replay ${file})`);
  if (run.verdict.violations.length > 0) process.exitCode = 1;
});
