// G1 in real tabs: 2, 4 and 8 of them increment one counter, each by a read and a write in two
// separate transactions. With the lock no update is lost; without it, updates are.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, until } from "./engine.mjs";

const SECTIONS = 240;

let browser;
/** How many renderers there are without tabs. */
let idle;
before(async () => {
  browser = await launch();
  idle = await browser.renderers();
});
after(() => browser?.close());

/** Opens `count` tabs, lets each run its share of the sections, and tells what was counted. */
async function contend(count, locked) {
  const name = `${count} tabs, ${locked ? "locked" : "unlocked"}`;
  const tabs = await Promise.all(Array.from({ length: count }, () => browser.open()));
  assert.equal(new Set(tabs).size, count);
  const renderers = (await browser.renderers()) - idle;
  assert.ok(renderers >= count, `${renderers} renderers for ${count} tabs`);
  const run = async ([name, sections, locked]) => {
    // A starved machine may let a renderer stand still for longer than the default lease; what is
    // shown here is exclusion, not staying power.
    const lock = tabLease.createLocks({ database: `leases of ${name}`, leaseMs: 20_000 });
    const log = [];
    await (window.going = started());
    for (let section = 0; section < sections; section++) {
      const increment = (lease) =>
        counter.increment(name).then((value) => log.push({ value, token: lease?.token }));
      await (locked ? lock.withLease("counter", increment) : increment());
    }
    return log;
  };
  const runs = tabs.map((tab) => tab.evaluate(run, [name, SECTIONS / count, locked]));
  await Promise.all(tabs.map((tab) => tab.waitForFunction(() => window.going !== undefined)));
  await tabs[0].evaluate(() => new BroadcastChannel("start").postMessage("go"));
  const logs = await Promise.all(runs);
  const counted = await tabs[0].evaluate((name) => counter.read(name), name);
  await Promise.all(tabs.map((tab) => tab.close()));
  await until("their renderers are gone", async () => (await browser.renderers()) <= idle + browser.spare);
  return { counted, log: logs.flat() };
}

for (const count of [2, 4, 8]) {
  test(`G1 exclusion: ${count} tabs under the lock lose no update`, async () => {
    const { counted, log } = await contend(count, true);
    assert.equal(counted, SECTIONS);
    // A later writer held a higher token, or went on under the same one.
    log.sort((a, b) => a.value - b.value);
    assert.deepEqual(
      log.map(({ value }) => value),
      Array.from({ length: SECTIONS }, (_, n) => n + 1),
    );
    for (let n = 1; n < log.length; n++)
      assert.ok(log[n].token >= log[n - 1].token, `token went backwards at ${n}`);
  });

  test(`the same ${count} tabs without the lock lose updates`, async () => {
    const { counted } = await contend(count, false);
    assert.ok(counted < SECTIONS, `${counted} of ${SECTIONS}: the test could not fail`);
  });
}
