// The benchmark runs, and what it counts adds up. Never a speed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { chart } from "../../bench/chart.mjs";
import { BARE, FULL, HOP, IDLE, LOCKS, measure, NATIVE, PEERS, SUBJECT } from "../../bench/measure.mjs";
import { readmeTable, results } from "../../bench/report.mjs";
import { summarise } from "../../bench/summary.mjs";

const PLAN = {
  rounds: 1,
  limit: Infinity,
  handOver: { count: 2, hold: { least: 10, spread: 10 } },
  again: { ops: 5, ms: 50 },
  cold: { ops: 3, ms: 50, gap: 60 },
  fenced: { ops: 5, ms: 50 },
  contention: { tabs: [2], ms: 600 },
  idle: { settled: 500, ms: 500 },
  many: { names: [1, 5], settled: 100, ms: 500, wanted: 5, waits: 100, calls: 10, waiters: 1 },
};

test("the benchmark measures every contender, and the locks lose no update", async () => {
  const measured = await measure(PLAN);
  assert.equal(measured.hidden, 0, "no tab is throttled");
  assert.equal(measured.coarse, 0, "the clock is fine");
  const summary = summarise(measured);
  const [round] = measured.rounds;

  for (const name of [...LOCKS, HOP]) {
    const { failed, times, early } = round.handOver[name];
    // The peers on localStorage let both tabs in at times, or throw: that is told, and no fault of ours.
    if (PEERS.includes(name)) assert.ok(failed !== undefined || times.length + early === 2, name);
    else assert.deepEqual([failed, early, times.length], [undefined, 0, 2], name);
  }
  for (const name of [...LOCKS, BARE]) {
    for (const scenario of ["again", "cold"]) {
      const { failed, times } = round[scenario][name];
      assert.equal(failed, undefined, name);
      assert.ok(times.length >= 3 && times.every((time) => time >= 0), name);
    }
  }
  const { failed, times, plain } = round.fenced[SUBJECT];
  assert.deepEqual(
    [failed, times.length === plain.length, times.length >= 3],
    [undefined, true, true],
    "fenced",
  );
  // The peers may lose updates: their exclusion rests on timing. These two must not.
  for (const name of [SUBJECT, NATIVE]) {
    const { failed, errors, lost, sections } = round.contention[name][2];
    assert.deepEqual([failed, errors, lost], [undefined, [], 0], name);
    assert.ok(sections.some((n) => n > 0), `${name}: ${sections}`);
  }
  assert.equal(round.idle[IDLE].writesPerSecond, 0);
  assert.equal(round.idle[NATIVE].writesPerSecond, 0);
  for (const name of LOCKS) assert.equal(round.idle[name].failed, undefined, name);

  const { held, handedOver, calls, waiting } = round.many[SUBJECT];
  assert.deepEqual([held[1].lost, held[5].lost, handedOver.lost, waiting.lost], [0, 0, 0, 0]);
  assert.ok(handedOver.ms < Infinity && calls.otherMs < Infinity);
  assert.deepEqual([calls.failed, calls.sections, calls.overlaps], [undefined, 10, 0]);
  assert.equal(summary.beforeAfter, undefined, "there was no other checkout");

  const run = {
    date: "today",
    machine: {},
    versions: { browser: "", packages: {} },
    rounds: 1,
    plan: { ...FULL, ...PLAN },
    summary,
  };
  for (const text of [results(run), readmeTable(run), chart(run)])
    assert.doesNotMatch(text, /NaN|undefined ms|\[object/);
});
