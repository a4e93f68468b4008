// The log of a run, as a file: one entry a line, the run's own line first.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { root } from "../../../scripts/lib.mjs";

/** Writes the log; its path. */
export function keep({ seed, ms, start, log, rows, verdict }, suffix = "") {
  const folder = join(root, "test-results");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `torture-${seed}${suffix}.jsonl`);
  const lines = [
    { what: "run", seed, ms, start, verdict },
    ...log,
    ...rows.map((row) => ({ what: "row", ...row })),
  ];
  writeFileSync(file, lines.map((line) => JSON.stringify(line) + "\n").join(""));
  return relative(root, file);
}

/** What to run again: the seed, and the events at the times when they happened. */
export function replayed(file) {
  const [run, ...log] = readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const events = log.filter(({ what }) => what === "event");
  return {
    seed: run.seed,
    ms: run.ms,
    events: events.map(({ what, result, at, ...event }) => ({ ...event, at: at - run.start })),
  };
}
