// The torture, for a minute: `npm run torture` runs it for longer. And that it finds what there is to be
// found.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { root } from "../../scripts/lib.mjs";
import { torture } from "./torture/director.mjs";
import { keep, replayed } from "./torture/journal.mjs";
import { schedule } from "./torture/schedule.mjs";
import { judge, summary } from "./torture/verdict.mjs";

const HALF_A_MINUTE = 30_000;

for (const seed of ["tab-lease", String(Date.now())]) {
  test(`killed, hung, hidden and frozen tabs lose no update and are never stuck: seed ${seed}`, async () => {
    const run = await torture({ seed, ms: HALF_A_MINUTE });
    const { verdict } = run;
    assert.equal(verdict.violations.length, 0, `${summary(run)}\nlog: ${keep(run)}`);
    for (const kind of ["window", "iframe", "dedicated", "shared", "service"])
      assert.ok(verdict.sections[kind] > 0, kind);
  });
}

test("without the lock the torture finds lost updates and two holders; its log can be replayed", async () => {
  const run = await torture({ seed: "no-lock", ms: 5_000, locked: false });
  const kinds = new Set(run.verdict.violations.map(({ kind }) => kind));
  assert.ok(kinds.has("lost update") && kinds.has("two holders"), [...kinds].join(", "));
  const again = replayed(join(root, keep(run)));
  assert.equal(again.seed, run.seed);
  const order = (events) => events.map(({ slot, action, ms, with: kinds }) => ({ slot, action, ms, kinds }));
  assert.deepEqual(order(again.events), order(run.events));
});

test("the seed alone decides what is done", () => {
  const [one, same, other] = ["a", "a", "b"].map((seed) => schedule(seed, 120_000));
  assert.deepEqual(one, same);
  assert.notDeepEqual(one, other);
  const actions = new Set(one.map(({ action }) => action));
  const all = "open kill close hang hide show freeze resume reload navigate back".split(" ");
  for (const action of [...all, "worker", "iframe", "service", "shared"])
    assert.ok(actions.has(action), action);
});

// ---- the verdict -----------------------------------------------------------------------------

/** A log in which A, then B, held and wrote; told differently by what is given. */
function told({ a = [], b = [], values = { red: 2 }, rows, final = {}, more = [], ms = 0 } = {}) {
  const of = (client, entries) =>
    entries.map(([at, what, more]) => ({ client, at, what, name: "red", request: 1, ...more }));
  const A = [
    [0, "ask", { ms: 1_000 }],
    [10, "got", { token: 1 }],
    [20, "step", { token: 1 }],
    [30, "release", {}],
  ];
  const B = [
    [0, "ask", { ms: 1_000 }],
    [40, "got", { token: 2 }],
    [50, "step", { token: 2 }],
    [60, "release", {}],
  ];
  /** What stands in for an entry of the same kind; null: none. */
  const change = (entries, by) => [
    ...entries.filter(([, what]) => !by.some(([, other]) => other === what)),
    ...by.filter(([at]) => at !== null),
  ];
  return judge({
    entries: [...of("tab 1 window a", change(A, a)), ...of("tab 2 window b", change(B, b)), ...more],
    values,
    rows: rows ?? [
      { name: "red", client: "tab 1 window a", token: 1, value: 1, request: 1 },
      { name: "red", client: "tab 2 window b", token: 2, value: 2, request: 1 },
    ],
    final,
    ms,
  }).violations.map(({ kind }) => kind);
}

test("the verdict: nothing, where there is nothing", () => {
  assert.deepEqual(told(), []);
  // A stood still, lost the lock and was told when it went on.
  const gap = { client: "tab 1 window a", at: 900, what: "gap", from: 20, to: 900, hidden: false };
  const stood = [[null, "release"], [905, "lost", {}]];
  assert.deepEqual(told({ a: stood, more: [gap] }), []);
  // A died: it is heard of no more.
  assert.deepEqual(told({ a: [[null, "release"]] }), []);
});

test("the verdict: each violation", () => {
  assert.deepEqual(told({ values: { red: 1 } }), ["lost update"]);
  assert.deepEqual(
    told({
      b: [
        [40, "got", { token: 1 }],
        [50, "step", { token: 1 }],
      ],
      rows: [],
      values: {},
    }),
    ["two holders"],
  );
  const ran = { client: "tab 1 window a", at: 400, what: "alive" };
  assert.deepEqual(told({ a: [[300, "release", {}]], more: [ran] }), ["two holders"], "for a while");
  assert.deepEqual(
    told({
      a: [
        [null, "release"],
        [55, "step", { token: 1 }],
        [56, "lost", {}],
      ],
      more: [ran],
    }),
    ["two holders"],
    "a step",
  );
  const gap = { client: "tab 1 window a", at: 900, what: "gap", from: 20, to: 900, hidden: false };
  assert.deepEqual(
    told({
      a: [
        [901, "step", { token: 1 }],
        [905, "lost", {}],
        [null, "release"],
      ],
      more: [gap],
    }),
    ["not told"],
  );
  const alive = { client: "tab 2 window b", at: 9_000, what: "alive" };
  const waits = [[null, "got"], [null, "step"], [null, "release"]];
  assert.deepEqual(told({ b: waits, more: [alive] }), ["stuck"], "not answered");
  assert.deepEqual(told({ b: waits }), [], "died waiting");
  const freed = (to, leaseMs) => ({ final: { red: { from: 0, to, leaseMs } } });
  assert.deepEqual(told(freed(5_000, 0)), ["stuck"], "in the end");
  assert.deepEqual(told(freed(10_500, 10_000)), [], "its holder died hidden, with a long lease");
  assert.deepEqual(told(freed(11_500, 10_000)), ["stuck"], "longer than the lease that its holder died with");
  const stall = { what: "stall", database: "tab-lease", at: 0, from: 0, to: 4_000 };
  assert.deepEqual(told({ ...freed(5_000, 0), more: [stall] }), [], "the database answered nobody");
  assert.deepEqual(told({ ms: 60_000 }), ["no progress"]);
  assert.deepEqual(
    told({ more: [{ client: "tab 2 window b", at: 70, what: "error", message: "unreachable" }] }),
    ["error"],
  );
  assert.deepEqual(
    told({ more: [{ client: "tab 2 window b", at: 45, what: "stale", request: 1, name: "red" }] }),
    ["stale"],
  );
});
