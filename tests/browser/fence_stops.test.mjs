// G2, the hard way: 204 times a holder is stopped between acquiring and writing, another tab takes over
// and writes, then the first wakes up and writes.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch } from "./chromium.mjs";
import { until } from "./until.mjs";

const PAGE = "/tests/browser/fence_page.html";
/** Of each batch. They are stopped at one blow, but each has its lock, its takeover and its writes. */
const TRIALS = 34;

let browser;
/** Lets a tab go on that hangs, if one does. */
let wakeUp;

before(async () => {
  browser = await launch({
    answer(request, response) {
      if (request.url !== "/tests/browser/wake-up") return false;
      wakeUp = () => response.end();
      return true;
    },
  });
});
after(() => browser.close());

const devtools = (tab) => tab.context().newCDPSession(tab);

/**
 * Ways to stop a tab. Each stops it in the middle of a task, with a `window.wakes` that is called when it
 * goes on, before anything else of it runs; and answers with how to wake it.
 */
const STOPS = {
  async hang(tab) {
    tab.evaluate(async () => {
      await quiet();
      const wakes = getReadyToWake();
      hang();
      wakes();
    });
    await until("it hangs", () => wakeUp);
    return wakeUp;
  },

  async debugger(tab) {
    const page = await devtools(tab);
    await page.send("Debugger.enable");
    const paused = new Promise((resolve) => page.once("Debugger.paused", resolve));
    tab.evaluate(async () => {
      await quiet();
      const wakes = getReadyToWake();
      // oxlint-disable-next-line no-debugger -- it is where the tab is stopped
      debugger;
      wakes();
    });
    await paused;
    return async () => {
      await page.send("Debugger.resume");
      await page.detach();
    };
  },

  async freeze(tab) {
    await tab.evaluate(() => {
      let wakes;
      document.addEventListener("freeze", () => (wakes = getReadyToWake()));
      document.addEventListener("resume", () => wakes());
    });
    await browser.freeze(tab);
    return async () => (await devtools(tab)).send("Page.setWebLifecycleState", { state: "active" });
  },
};

/** One batch. Answers with what was committed in the end, by kind of key, and with how late writes ended. */
async function batch(kind, clock) {
  const names = Array.from({ length: TRIALS }, (_, n) => `${kind}, clock ${clock}, ${n}`);
  // A hidden tab's timers fire once a second, and those of a busy machine late.
  const settings = { leaseMs: 2_000, heartbeatMs: kind === "freeze" ? 1_000 : 500 };
  const [stopped, heir] = await Promise.all([browser.open(PAGE), browser.open(PAGE)]);
  for (const tab of [stopped, heir]) {
    await tab.evaluate(
      async ([database, settings]) => {
        window.db = await openRaw(database);
        window.locks = tabLease.createLocks({ database: db, ...settings });
      },
      [`stops ${kind} ${clock}`, settings],
    );
  }
  await stopped.evaluate(
    async ([names, clock]) => {
      window.leases = await takeAll(locks, names);
      window.getReadyToWake = () => {
        window.heldAtStop = leases.filter(({ signal }) => !signal.aborted).length;
        const clockGoesOn = clock === "asleep" ? stopClock() : () => {};
        return () => {
          clockGoesOn();
          window.ends = writeAll(db, leases, "stale");
        };
      };
    },
    [names, clock],
  );
  const takenOver = heir.evaluate(async (names) => {
    window.leases = await takeAll(locks, names, async (lease, name, n) => {
      await Promise.all([
        bareWrite(db, `bare ${name}`, "heir's"),
        fencedWrite(db, lease, `fenced ${name}`, "heir's", n),
      ]);
    });
    return leases.length;
  }, names);
  await until(
    "they wait",
    async () => (await stopped.evaluate(() => locks.query())).pending.length === TRIALS,
  );
  wakeUp = undefined;
  const wake = await STOPS[kind](stopped);
  assert.equal(await takenOver, TRIALS, "all are taken over and written");
  await wake();
  const { ends, held } = await stopped.evaluate(async () => ({ ends: await window.ends, held: heldAtStop }));
  const found = await heir.evaluate(async (names) => {
    const found = { bare: [], fenced: [] };
    for (const kind in found)
      for (const name of names) found[kind].push(await wrappers.raw.read(db, `${kind} ${name}`));
    return { ...found, held: leases.filter(({ signal }) => !signal.aborted).length };
  }, names);
  await Promise.all([stopped.close(), heir.close()]);
  return { ...found, ends, heldAtStop: held };
}

let trials = 0;

for (const kind of Object.keys(STOPS)) {
  // A tab whose clock went on knows by it that the lease is over. One whose clock stood still, as it does
  // while a computer sleeps, is told by the transaction.
  for (const clock of ["awake", "asleep"]) {
    const clocks = clock === "awake" ? "clock running" : "clock standing still";
    test(`G2 fencing: ${TRIALS} holders stopped by ${kind}, ${clocks}`, async () => {
      const { bare, fenced, ends, heldAtStop } = await batch(kind, clock);
      assert.equal(
        heldAtStop,
        kind === "freeze" ? 0 : TRIALS,
        "all were held when it was stopped, or let go before",
      );
      assert.deepEqual(new Set(ends.map(({ name }) => name)), new Set(["LeaseLostError"]));
      if (kind !== "freeze") {
        const code = clock === "asleep" ? "LEASE_SUPERSEDED" : "LEASE_EXPIRED";
        assert.deepEqual(new Set(ends.map(({ code }) => code)), new Set([code]), "who told it");
      }
      assert.deepEqual(
        fenced.filter((value) => value !== "heir's"),
        [],
        "no stale write is committed with the fence",
      );
      const stale = bare.filter((value) => value === "stale").length;
      assert.ok(stale > 0, "without it, some are");
      console.log(
        `# ${kind}, ${clock}: ${stale} of ${TRIALS} stale writes committed without the fence, 0 with it`,
      );
      trials += TRIALS;
    });
  }
}

test("G2 fencing: that were 200 trials and more", () => assert.ok(trials >= 200, `${trials} trials`));
