// Turns between a busy tab's own calls and another tab, in real tabs. (Guarantee G3; the rule and its model:
// src/turns.rs.)
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

const waits = (tab, name) =>
  until("the other tab waits", () => tab.evaluate(async (name) => (await waiting(name)) > 0, name));

test("G3 progress: overlapping sections of one tab, without end, do not keep another tab out", async () => {
  const [busy, other] = [await open(), await open()];
  const name = "turns overlap";
  await busy.evaluate((name) => {
    window.sections = 0;
    const work = async () => {
      await new Promise((resolve) => setTimeout(resolve, 100));
      sections++;
    };
    window.work = setInterval(() => tabLease.withLease(name, work), 40);
  }, name);
  await until("they overlap", () => busy.evaluate(() => sections > 3));
  for (let turn = 0; turn < 3; turn++) {
    const { error } = await other.evaluate(async (name) => {
      const taken = await outcome(
        tabLease.acquire(name, { timeout: 5_000 }).then((lease) => lease.release()),
      );
      return taken;
    }, name);
    assert.equal(error, undefined, `turn ${turn}`);
  }
  const before = await busy.evaluate(() => sections);
  await until("the busy tab goes on", () => busy.evaluate((before) => sections > before + 3, before));
  await busy.evaluate(() => clearInterval(work));
});

test("G3 progress: code under the lock takes it again while another tab waits, and both go on", async () => {
  const [busy, other] = [await open(), await open()];
  const name = "turns nest";
  await busy.evaluate((name) => {
    window.done = [];
    const note = (what) => done.push(what);
    window.outer = tabLease.withLease(name, async () => {
      await new Promise((resolve) => (window.goOn = resolve));
      await tabLease.withLease(name, async () => {
        note("inner");
        await tabLease.withLease(name, () => note("innermost"));
      });
      note("outer");
    });
  }, name);
  await until("it holds", () => busy.evaluate(() => !!window.goOn));
  const got = other.evaluate(async (name) => {
    const lease = await tabLease.acquire(name, { timeout: 10_000 });
    await lease.release();
    return lease.token;
  }, name);
  await waits(other, name);
  await busy.evaluate(async () => {
    goOn();
    await outer;
  });
  assert.deepEqual(await busy.evaluate(() => done), ["inner", "innermost", "outer"]);
  assert.ok(await got);
});

test("a try does not go before a tab that waits", async () => {
  const [busy, other] = [await open(), await open()];
  const name = "turns try";
  await busy.evaluate(async (name) => {
    window.lease = await tabLease.acquire(name);
    const shared = await tabLease.tryAcquire(name);
    await shared.release();
  }, name);
  const got = other.evaluate(async (name) => {
    window.lease = await tabLease.acquire(name);
    return lease.token;
  }, name);
  await waits(other, name);
  await until("the holder knows", () =>
    busy.evaluate(
      async (name) => (await tabLease.tryAcquire(name).then((lease) => lease?.release() ?? null)) === null,
      name,
    ),
  );
  await busy.evaluate(() => lease.release());
  assert.ok(await got);
});

for (const odd of ["WithoutDelay", "AtOnce", "Refusing", "Throwing", "WithoutPromise"]) {
  test(`a scheduler.postTask that is ${odd} makes no loop: the lock is held, and the page runs`, async () => {
    const page = await open(`scheduler${odd}`);
    const seen = await page.evaluate(async (odd) => {
      const lease = await tabLease.acquire(`scheduler ${odd}`, { timeout: 5_000 });
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setTimeout(resolve, 20));
      const held = !lease.signal.aborted;
      await lease.release();
      return { held, posts };
    }, odd);
    assert.ok(seen.held);
    assert.ok(seen.posts < 5, `${seen.posts} calls`);
  });
}
