// G5 staying power: a hidden tab, and another that tries for its lock in every way, all along. It runs
// beside the other tests, for it takes minutes: TAB_LEASE_HIDDEN_MINUTES, 3 unless told otherwise.
import assert from "node:assert/strict";
import { after, before } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { engine, launch, testThat, until } from "./engine.mjs";

const HIDDEN_MS = 60_000 * Number(process.env.TAB_LEASE_HIDDEN_MINUTES ?? 3);
/** How late a timer of the hidden page is now and then, at least. */
const THROTTLED_MS = engine === "chromium" ? 20_000 : 900;

let browser;

before(async () => {
  // A page is throttled to a timer a minute within seconds, not within a minute of hiding.
  browser = await launch({ flags: ["--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/2"] });
});
after(() => browser.close());

testThat("G5 staying power: a hidden, throttled tab keeps the lock while another tries", "hide", async () => {
  const [holder, rival] = [await browser.open(), await browser.open()];
  await holder.evaluate(async () => {
    window.lease = await tabLease.acquire("hidden");
    // How late a timer of this page is that is armed by the one before.
    window.longest = 0;
    const tick = (armed) => {
      longest = Math.max(longest, performance.now() - armed);
      const now = performance.now();
      setTimeout(() => tick(now), 50);
    };
    tick(performance.now());
  });
  await browser.hide(holder);
  await rival.evaluate(() => {
    Object.assign(window, { tried: 0, got: 0 });
    (async () => {
      while (got === 0) {
        const waiting = () => tabLease.acquire("hidden", { timeout: 2_000 }).catch(() => null);
        const lease = (await tabLease.tryAcquire("hidden")) ?? (await waiting());
        tried += 1;
        if (lease) got += 1;
        await lease?.release();
      }
    })();
  });
  await pause(HIDDEN_MS);
  const rivals = await rival.evaluate(() => ({ got, tried }));
  assert.equal(rivals.got, 0);
  assert.ok(rivals.tried > HIDDEN_MS / 5_000, `${rivals.tried} tries`);
  const { lost, late } = await holder.evaluate(() => ({ lost: lease.signal.aborted, late: longest }));
  assert.equal(lost, false);
  assert.ok(late > THROTTLED_MS, `its timers were at most ${Math.round(late)} ms late: not throttled`);
  await holder.evaluate(() => lease.release());
  await until("the other has it", () => rival.evaluate(() => window.got > 0));
});
