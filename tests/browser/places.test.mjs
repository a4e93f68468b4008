// Many calls and many waiters, in real tabs: what they cost. (Guarantees G1, G3; the rule is in
// src/contender/places.rs.)
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, until } from "./engine.mjs";

/** Of one tab, in the queue of one name. */
const PLACES = 8;

let browser;
const tabs = [];

before(async () => (browser = await launch()));
after(() => browser.close());
afterEach(() => Promise.all(tabs.splice(0).map((tab) => tab.close())));

async function open() {
  const tab = await browser.open("/tests/browser/page.html");
  tabs.push(tab);
  return tab;
}

/** Counts what is written to IndexedDB from now on. */
const count = (tab) =>
  tab.evaluate(() => {
    window.writes = 0;
    if (window.counted) return;
    window.counted = true;
    const { put } = IDBObjectStore.prototype;
    IDBObjectStore.prototype.put = function (...args) {
      writes++;
      return put.apply(this, args);
    };
  });

test("G1, G3: a thousand exclusive calls take few places, stay in order, and let other tabs in", async () => {
  const [busy, other] = [await open(), await open()];
  const name = "a thousand";
  await busy.evaluate((name) => {
    window.run = { order: [], inside: 0, both: 0, errors: [] };
    const section = async (n) => {
      if (++run.inside > 1) run.both++;
      run.order.push(n);
      await null;
      run.inside--;
    };
    const call = (n) =>
      tabLease
        .withLease(name, { scope: "request" }, () => section(n))
        .catch((error) => run.errors.push(error.code));
    const begun = performance.now();
    const calls = Promise.all(Array.from({ length: 1000 }, (_, n) => call(n)));
    calls.then(() => (run.ms = performance.now() - begun));
  }, name);
  const waited = await other.evaluate(async (name) => {
    const begun = performance.now();
    const lease = await tabLease.acquire(name);
    const waited = performance.now() - begun;
    await lease.release();
    return waited;
  }, name);
  const most = await other.evaluate(async (name) => {
    const pending = (await tabLease.query()).pending.filter((request) => request.name === name);
    return pending.length;
  }, name);
  assert.ok(most <= PLACES, `${most} in the queue`);
  const isOver = () => busy.evaluate(() => run.ms !== undefined || run.errors.length > 0);
  await until("all have had their turn", isOver);
  const run = await busy.evaluate(() => window.run);
  assert.deepEqual(run.errors, []);
  assert.equal(run.both, 0);
  assert.deepEqual(run.order, Array.from({ length: 1000 }, (_, n) => n));
  assert.ok(run.ms < 10_000, `${run.ms} ms`);
  assert.ok(waited < 5_000, `the other tab had it after ${waited} ms`);
});

test("calls that wait in the tab end by deadlines and signals, and the next ones move up", async () => {
  const [holder, tab] = [await open(), await open()];
  const name = "moves up";
  await holder.evaluate(async (name) => (window.lease = await tabLease.acquire(name)), name);
  await tab.evaluate((name) => {
    window.order = [];
    window.gaveUp = [];
    const call = (n, options) =>
      tabLease
        .withLease(name, { scope: "request", ...options }, () => order.push(n))
        .catch((error) => (gaveUp.push(n), error.name));
    const quitter = new AbortController();
    window.quit = () => quitter.abort();
    window.ends = Promise.all([
      ...Array.from({ length: 10 }, (_, n) => call(n)),
      call("late", { timeout: 200 }),
      call("quits", { signal: quitter.signal }),
      call("last"),
    ]);
  }, name);
  const queued = async () => {
    const { pending } = await holder.evaluate(() => tabLease.query());
    return pending.filter((request) => request.name === name).length;
  };
  await until("the places are taken", async () => (await queued()) === PLACES);
  await tab.evaluate(() => quit());
  const gaveUp = () => tab.evaluate(() => [...gaveUp].sort().join());
  await until("the two that wait in the tab have given up", async () => (await gaveUp()) === "late,quits");
  assert.equal(await queued(), PLACES);
  await holder.evaluate(() => lease.release());
  const ends = await tab.evaluate(() => ends);
  assert.deepEqual(ends.slice(10, 12), ["TimeoutError", "AbortError"]);
  assert.deepEqual(await tab.evaluate(() => order), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "last"]);
});

test("tabs that wait write nothing while nothing happens", async () => {
  const holder = await open();
  const name = "writes nothing";
  await holder.evaluate(async (name) => (window.lease = await tabLease.acquire(name)), name);
  const waiters = [await open(), await open(), await open()];
  for (const [n, waiter] of waiters.entries()) {
    await waiter.evaluate((name) => {
      window.leave = new AbortController();
      window.got = tabLease.acquire(name, { signal: leave.signal }).then((lease) => (window.lease = lease));
    }, name);
    await until("it waits", async () => {
      const { pending } = await holder.evaluate(() => tabLease.query());
      return pending.filter((request) => request.name === name).length === n + 1;
    });
  }
  const leaseIs = (ms) => async () => {
    const { held } = await holder.evaluate(() => tabLease.query());
    return held.find((lock) => lock.name === name).leaseMs === ms;
  };
  await until("the lease is as long as one that is waited for may be", leaseIs(2_000));
  for (const tab of [holder, ...waiters]) await count(tab);
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  for (const waiter of waiters) assert.equal(await waiter.evaluate(() => writes), 0);
  const writes = await holder.evaluate(() => window.writes);
  assert.ok(writes <= 10, `${writes} writes in 5 s`);
  // Another one is next: it need not wait for a long lease.
  await waiters.shift().evaluate(() => (leave.abort(), got.catch(() => {})));
  await until("the lease is short again", leaseIs(500));
  assert.equal(await holder.evaluate(() => lease.signal.aborted), false);
  // It goes on to all of them.
  await holder.evaluate(() => lease.release());
  for (const waiter of waiters) {
    await waiter.evaluate(() => got.then(() => lease.release()));
  }
});
