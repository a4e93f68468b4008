// `npm run model` explores the worlds of tests/model.rs that `npm test` explores, `npm run model -- large`
// the larger ones, which take an hour or more and some GB of memory. Names of worlds may follow: `-- NAME …`,
// `-- large NAME …`. In the end a table is printed, with the date, for docs/TESTING.md.
import { ask, run, say, script } from "./lib.mjs";

const EXPLORED = /^(\w+): (\d+) states, ([\d.]+) s /gm;

/** The worlds that were explored, of what the tests have printed. */
export const explored = (text) =>
  [...text.matchAll(EXPLORED)].map(([, world, states, seconds]) => ({
    world,
    states: Number(states),
    seconds: Number(seconds),
  }));

/** A table of worlds, the largest first, for a document. */
export function table(worlds, date, commit) {
  const line = (...cells) => `| ${cells.join(" | ")} |`;
  const number = (n) => n.toLocaleString("en");
  const sum = (key) => worlds.reduce((sum, world) => sum + world[key], 0);
  const rows = [...worlds].sort((a, b) => b.states - a.states);
  return [
    `${date}, at ${commit}: ${number(sum("states"))} states in ${worlds.length} worlds, ` +
      `${Math.round(sum("seconds"))} s.`,
    "",
    line("world", "states", "s"),
    line("---", "---:", "---:"),
    ...rows.map(({ world, states, seconds }) => line(world, number(states), seconds.toFixed(1))),
  ].join("\n");
}

/** What cargo is asked to run. */
export function plan([size, ...rest]) {
  const large = size === "large";
  const names = large || size === undefined ? rest : [size, ...rest];
  if (!large) return { filters: names, extraEnv: {} };
  const extraEnv = { TAB_LEASE_MODEL: "large", TAB_LEASE_WORLDS: names.join(",") };
  return { filters: ["large_worlds_if_asked_for"], extraEnv };
}

if (process.argv[1] === import.meta.filename) {
  script(async () => {
    const { filters, extraEnv } = plan(process.argv.slice(2));
    const args = ["test", "--test", "model", "--", "--nocapture", ...filters];
    say(`cargo ${args.join(" ")}`);
    const { code, text } = await run("cargo", args, { tee: true, extraEnv });
    const worlds = explored(text);
    const commit = ask("git", ["describe", "--always", "--dirty", "--exclude=*"]);
    if (worlds.length > 0) console.log(`\n${table(worlds, new Date().toISOString().slice(0, 10), commit)}`);
    if (code !== 0) throw new Error("something was found, see above");
    if (worlds.length === 0) throw new Error("no world was explored: is there one of that name?");
  });
}
