// Tells the summary to people: tables for bench/RESULTS.md and the README.
import { BARE, HOP, IDLE, LOCKS, NATIVE, PEERS, SUBJECT } from "./measure.mjs";

/** Three digits that mean something; never an exponent. */
export function digits(value) {
  if (value === undefined || value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return "∞";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3).replace(/^(\d+)\.0+$/, "$1");
}

const row = (cells) => `| ${cells.join(" | ")} |`;

function table(head, rows) {
  return [row(head), row(head.map((_, n) => (n === 0 ? "---" : "---:"))), ...rows.map(row)].join("\n");
}

const bold = (name, text) => (name === SUBJECT ? `**${text}**` : text);

const from = ({ median, least, most }) => `${digits(median)} (${digits(least)}–${digits(most)})`;

function timed(scenario, contenders) {
  return table(
    ["ms", "p50", "p95", "p50 of each round", "samples"],
    contenders.map((name) => {
      const { p50, p95, perRound, samples, early, failures } = scenario[name];
      const note =
        (failures.length > 0 ? ` (failed in ${failures.length} rounds: ${failures[0]})` : "") +
        (early > 0 ? ` (**let both in ${early} times**)` : "");
      return [bold(name, name) + note, bold(name, digits(p50)), digits(p95), `${digits(perRound.least)}–${digits(perRound.most)}`, samples];
    }),
  );
}

function contended(sizes) {
  return Object.entries(sizes).map(([count, of]) => `### ${count} tabs

${table(
    ["", "sections/s", `to ${NATIVE}`, "most / least of a tab", "longest wait, ms", "in mean rounds", "sections", "lost updates", "errors"],
    LOCKS.map((name) => {
      const { perSecond, toNative, mostToLeast, longestMs, longestInRounds, sections, lost, errors, failures } = of[name];
      const note = failures.length > 0 ? ` (stuck in ${failures.length} rounds)` : "";
      return [
        bold(name, name) + note,
        bold(name, from(perSecond)),
        from(toNative),
        from(mostToLeast),
        from(longestMs),
        from(longestInRounds),
        sections,
        lost > 0 ? `**${lost}**` : lost,
        errors,
      ];
    }),
  )}`).join("\n\n");
}

const machineLine = ({ machine, versions, rounds, date }) =>
  `${date}, ${machine.cpu}, ${machine.cores} cores, ${machine.os}, ${versions.browser}, ${rounds} round${rounds === 1 ? "" : "s"}`;

/** Before and after, or nothing where there was no other checkout. */
export function beforeTable({ beforeAfter }) {
  if (!beforeAfter) return "";
  return table(
    ["", "before", "after", "after / before"],
    beforeAfter.map(({ what, unit, before, after, ratio }) => [`${what}, ${unit}`, from(before), from(after), from(ratio)]),
  );
}

/** Many names, calls and tabs: a column for each checkout. */
export function manyTable({ many }) {
  const names = Object.keys(many);
  const lines = [];
  const line = (what, of) => lines.push([what, ...names.map((name) => bold(name, of(many[name])))]);
  for (const count of Object.keys(many[names[0]].held)) {
    line(`${count} names held, nobody wants them: writes/s`, ({ held }) => from(held[count].writesPerSecond));
    line("… readwrite transactions/s", ({ held }) => from(held[count].transactionsPerSecond));
    line("… main thread, ms/s", ({ held }) => from(held[count].taskMsPerSecond));
    line("… leases lost", ({ held }) => held[count].lost);
  }
  line("many names, wanted by another tab: all handed over, ms", ({ handedOver }) => from(handedOver.ms));
  line("… leases lost, before and after", ({ handedOver }) => handedOver.lost);
  line("many calls at once in one tab, ms", ({ calls }) => from(calls.ms) + (calls.failures.length ? ` (${calls.failures[0]})` : ""));
  line("… until another tab had its turn, ms", ({ calls }) => from(calls.otherMs));
  line("… sections; overlaps", ({ calls }) => `${calls.sections}; ${calls.overlaps}`);
  line("one holder, others wait: writes/s of all", ({ waiting }) => from(waiting.writesPerSecond));
  line("… readwrite transactions/s of all", ({ waiting }) => from(waiting.transactionsPerSecond));
  line("… main thread of the holder, ms/s", ({ waiting }) => from(waiting.taskMsPerSecond));
  return table(["", ...names], lines);
}

export function targetTable(targets) {
  return table(
    ["must reach", "", "reached", "in the rounds", NATIVE, "met"],
    targets.map(({ what, must, value, least, most, native, met }) => [
      what,
      must,
      digits(value),
      `${digits(least)}–${digits(most)}`,
      native === undefined ? "" : digits(native),
      met ? "yes" : "**no**",
    ]),
  );
}

/** The whole of bench/RESULTS.md. */
export function results(run) {
  const { summary, versions, plan } = run;
  const { handOver, again, cold, fenced, contention, idle, clock, targets } = summary;
  return `# How fast it is: results

Written by \`npm run bench\`. ${machineLine(run)}.
${Object.entries(versions.packages).map(([name, version]) => `${name} ${version}`).join(", ")}.

All of it is one run in real Chromium tabs, each in a window and a renderer of its own. Every round runs
every contender in each scenario, in an order drawn anew. Ratios are taken within each round; shown is
their median, and in brackets the least and the most.

![chart](results.svg)

## Targets

${targetTable(targets)}

## Hand-over between two tabs

One holds, one waits; from just before the release to when the other one has it. The waiter says that
it has asked; the holder keeps the lock for another ${plan.handOver.hold.least} to ${plan.handOver.hold.least + plan.handOver.hold.spread} ms (drawn at random, so that no polling
phase is favoured), and they change roles. The two tabs' clocks were at most ${digits(clock.skew)} ms apart (told by
pings of ${digits(clock.rtt)} ms there and back); that is taken out, and as half of the hand-overs go each way, an
error of it cancels. The last line is the physical limit: one BroadcastChannel message between the same tabs.

${timed(handOver, [...LOCKS, HOP])}

## Acquire and release again, one tab, nobody waiting

In a loop, without a pause. The last line is the physical limit: one relaxed readwrite transaction, get + put.

${timed(again, [...LOCKS, BARE])}

## Acquire and release, cold

The same with a pause of ${plan.cold.gap} ms before each, three heartbeats, so that nothing lingers.

${timed(cold, [...LOCKS, BARE])}

## Fenced transactions

One tab that holds the lock reads and writes a record in one relaxed readwrite transaction: by turns with
\`lease.fence(tx)\` at its head, and without. Ratio of the p50s: ${from(fenced.toPlain)}${fenced.failures.length > 0 ? ` (failed: ${fenced.failures[0]})` : ""}.

${table(
    ["ms", "p50", "p95", "p50 of each round", "samples"],
    ["fenced", "plain"].map((name) => {
      const { p50, p95, perRound, samples } = fenced[name];
      return [name === "fenced" ? "**fenced**" : "the same, unfenced", digits(p50), digits(p95), `${digits(perRound.least)}–${digits(perRound.most)}`, samples];
    }),
  )}

## Contention

For ${plan.contention.ms} ms every tab increments one counter in IndexedDB, again and again: acquire, read, write (two
transactions), release. A *round* is the time in which every tab could have had one turn. A wait that the end cuts
off counts for as long as it was. Lost updates are sections that ran and did not count: two tabs were in at once.

${contended(contention)}

## Idle: held for ${plan.idle.ms / 1000} s, nobody waiting

After ${plan.idle.settled / 1000} s in which the lease grows, and the browser collects what loading has left behind.
Writes to IndexedDB and localStorage; the main thread's CPU time (DevTools \`TaskDuration\`). All at the
same time, each on an origin of its own, next to a page that does nothing.

${table(
    ["", "writes/s", "main thread, ms/s", "to an idle page"],
    [...LOCKS, IDLE].map((name) => {
      const { writesPerSecond, taskMsPerSecond, toIdle, failures } = idle[name];
      const note = failures.length > 0 ? ` (failed: ${failures[0]})` : "";
      return [bold(name, name) + note, from(writesPerSecond), from(taskMsPerSecond), from(toIdle)];
    }),
  )}

## Many names, many calls, many tabs

\`scope: "request"\` for ${plan.many.calls} calls at once while another tab waits; ${plan.many.wanted} names that another tab wants; one holder
and ${plan.many.waiters} waiters. Nothing happens while writes are counted, for ${plan.many.ms / 1000} s, after ${plan.many.settled / 1000} s.

${manyTable(summary)}
${summary.beforeAfter ? `\n## Before and after\n\nTwo checkouts of this package in the same run.\n\n${beforeTable(summary)}\n` : ""}
## What is not always reached, and why

By traces of the browser's threads and time stamps of every call, on two cores:

- *Hand-over*: a bare message takes 0.89 to 0.98 of what \`navigator.locks\` takes in all, since both go through the
  browser's process. What comes to it at its two ends is 0.05 to 0.2 ms, in code that has last run 100 ms ago; so
  all but the same code reached 0.91 in one run, with 0.87 to 0.96 in its rounds, and 1.18 in another, with 1.02 to 1.34.
- *Sections*: IndexedDB works on one thread for all tabs. A section costs it 0.7 ms of CPU for the counter's own
  two transactions, and 2.2 ms with the two by which a change of hands is written down. \`navigator.locks\` with two
  bare transactions beside it reaches 0.7 to 0.75. A prototype that wrote down only one change of hands in thirty
  reached 0.86, 0.66 and 0.54 with 2, 4 and 8 tabs: what is left is that every message goes to every tab (2.7 ms of
  CPU a section with 8 tabs, where \`navigator.locks\` takes 0.65). It was not kept.
- *Longest wait*: single stalls of IndexedDB, of 30 to 100 ms. They hit \`navigator.locks\` beside it as well: 1.5 to 32
  rounds in nine batches of each, where tab-lease waited for 1.5 to 21.
- *Main thread of an idle holder*: a beat is a timer, a call into wasm and three answers of IndexedDB, 1.2 ms in all.

## The peers

- \`navigator.locks (polyfill)\` is the npm package \`navigator.locks\`. It stands back where the browser has
  locks, so its pages hide the native ones before it loads.
- \`browser-tabs-lock\` keeps a lock in localStorage, and waits 30 to 85 ms to see whether it was alone.
- \`idb-mutex\` polls every 50 ms. It renews nothing: a lock is anybody's after 10 s, held or not.
- Each runs with its defaults, alone in its tabs.
`;
}

/** What the README shows between its markers. */
export function readmeTable(run) {
  const { handOver, again, cold, fenced, contention, idle } = run.summary;
  const sizes = Object.keys(contention);
  const of = (scenario, name) => digits(scenario[name]?.p50);
  const names = { [HOP]: "*one BroadcastChannel message*", [BARE]: "*one IndexedDB transaction*" };
  return `${table(
    ["p50, ms", "hand-over", "again", "cold", `sections/s of ${sizes.join(" / ")} tabs`, "lost updates", "idle writes/s"],
    [...LOCKS, HOP, BARE].map((name) => {
      const lock = LOCKS.includes(name);
      return [
        names[name] ?? bold(name, PEERS.includes(name) ? `npm ${name}` : name),
        ...[handOver, again, cold].map((scenario) => (scenario[name] ? bold(name, of(scenario, name)) : "")),
        lock ? bold(name, sizes.map((count) => digits(Math.round(contention[count][name].perSecond.median))).join(" / ")) : "",
        lock ? sizes.reduce((sum, count) => sum + contention[count][name].lost, 0) : "",
        lock ? digits(idle[name].writesPerSecond.median) : "",
      ];
    }),
  )}

A fenced transaction takes ${digits(fenced.toPlain.median)} times as long as the same one unfenced.

${machineLine(run)}.`;
}
