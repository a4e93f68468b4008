// What is believed of other tabs' deaths: a word from a lock manager that lies, or does not see them, never
// takes a living tab's lease. (Guarantee G1; the rule and its model: src/evidence.rs.)
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, until } from "./engine.mjs";

let browser;
const tabs = [];

before(async () => (browser = await launch()));
after(() => browser.close());
afterEach(() => Promise.all(tabs.splice(0).map((tab) => tab.close())));

async function open(odd) {
  const tab = await browser.open(`/tests/browser/page.html${odd ? `?odd=${odd}` : ""}`);
  tabs.push(tab);
  return tab;
}

const LIES = [
  "nullLocks",
  "nullLocksBound",
  "fakeLocks",
  "otherLocks",
  "inheritedLocks",
  "polyfilledLocks",
  "seenByNobody",
];

for (const lie of LIES) {
  test(`G1 exclusion: ${lie}: a waiter that is told so takes no living tab's lease`, async () => {
    const name = `beacon ${lie}`;
    const [holder, waiter] = [await open(), await open(lie)];
    await holder.evaluate(async (name) => {
      window.lease = await tabLease.acquire(name);
    }, name);
    // Longer than a lease, so observation is tried as well.
    const seen = await waiter.evaluate(async (name) => {
      const { error } = await outcome(tabLease.acquire(name, { timeout: 1_500 }));
      return error?.name;
    }, name);
    assert.equal(seen, "TimeoutError");
    assert.equal(await holder.evaluate(() => lease.signal.aborted), false);
  });
}

test("G1 exclusion: tabs that are called back with null count one by one", async () => {
  const name = "beacon counter";
  const pages = [await open("nullLocks"), await open("nullLocks"), await open()];
  const work = async (name) => {
    for (let n = 0; n < 8; n++) {
      await tabLease.withLease(name, { scope: "request" }, async (lease) => {
        const value = await counter.read(name);
        // Longer than it takes to believe a lie.
        await new Promise((resolve) => setTimeout(resolve, 60));
        lease.signal.throwIfAborted();
        await counter.write(name, value + 1);
      });
    }
  };
  await Promise.all(pages.map((page) => page.evaluate(work, name)));
  assert.equal(await pages[0].evaluate((name) => counter.read(name), name), 24);
});

for (const silent of ["silentLocks", "locksWithoutPromise"]) {
  test(`G6 no wedge: ${silent}: the lock is to be had, without beacons`, async () => {
    const page = await open(silent);
    const name = `beacon ${silent}`;
    const kept = await page.evaluate(async (name) => {
      const lease = await tabLease.acquire(name, { timeout: 5_000 });
      const { held } = await tabLease.query();
      await lease.release();
      return held.find((lock) => lock.name === name).leaseMs;
    }, name);
    assert.equal(kept, 500);
  });
}

test("a holder whose beacon nobody can see has no longer lease than usual", async () => {
  const [odd, sound] = [await open("nullLocks"), await open()];
  const hold = (tab, name) =>
    tab.evaluate(async (name) => {
      window.lease = await tabLease.acquire(name);
    }, name);
  await Promise.all([hold(odd, "beacon odd"), hold(sound, "beacon sound")]);
  const length = (name) =>
    odd.evaluate(
      async (name) => (await tabLease.query()).held.find((lock) => lock.name === name).leaseMs,
      name,
    );
  await until("nobody has waited for a while", async () => (await length("beacon sound")) > 2_000);
  assert.equal(await length("beacon odd"), 500);
});
