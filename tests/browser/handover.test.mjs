// Handing over between real tabs: the queue, and the messages that wake the next tab.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, testThat, until } from "./engine.mjs";

let browser;
const tabs = [];

before(async () => (browser = await launch()));
after(() => browser?.close());
afterEach(() => Promise.all(tabs.splice(0).map((tab) => tab.close())));

async function open() {
  const tab = await browser.open();
  tabs.push(tab);
  return tab;
}

let names = 0;
const fresh = () => `test ${++names}`;

const waiters = (tab, name) => tab.evaluate((name) => waiting(name), name);

test("G3 progress: after a release the longest-waiting tab gets the lock", async () => {
  const name = fresh();
  const holder = await open();
  await holder.evaluate(async (name) => {
    window.order = [];
    new BroadcastChannel("order").onmessage = ({ data }) => order.push(data);
    // So long a lease that nobody finds out by polling soon.
    window.lease = await tabLease.createLocks({ leaseMs: 60_000 }).acquire(name);
  }, name);
  const turns = [];
  for (let n = 0; n < 4; n++) {
    const tab = await open();
    turns.push(
      tab.evaluate(
        async ([name, n]) => {
          const lease = await tabLease.createLocks({ leaseMs: 60_000 }).acquire(name);
          new BroadcastChannel("order").postMessage(n);
          await lease.release();
          return lease.token;
        },
        [name, n],
      ),
    );
    await until("it is in the queue", async () => (await waiters(holder, name)) === n + 1);
  }
  const first = await holder.evaluate(() => lease.release().then(() => lease.token));
  const tokens = await Promise.all(turns);
  await until("all have been there", () => holder.evaluate(() => order.length === 4));
  assert.deepEqual(await holder.evaluate(() => order), [0, 1, 2, 3]);
  // Each handed it over by a message, under the number that was its own to give.
  assert.deepEqual(tokens, [first + 1, first + 2, first + 3, first + 4]);
});

/** Keeps a readwrite transaction over all leases open in a tab, until `window.unblock()`. */
const block = (tab) =>
  tab.evaluate(async () => {
    const db = await new Promise((resolve) => {
      indexedDB.open("tab-lease").onsuccess = ({ target }) => resolve(target.result);
    });
    const store = db.transaction("leases", "readwrite").objectStore("leases");
    let blocks = true;
    window.unblock = () => (blocks = false);
    await new Promise((resolve) => {
      const again = () => {
        resolve();
        if (blocks) store.get("none").onsuccess = again;
        else db.close();
      };
      store.get("none").onsuccess = again;
    });
  });

test("one hop: the next tab has the lock while the store answers nobody", async () => {
  const name = fresh();
  const [holder, waiter, blocker] = [await open(), await open(), await open()];
  const settings = { leaseMs: 60_000 };
  const token = await holder.evaluate(
    async ([name, settings]) => (window.lease = await tabLease.createLocks(settings).acquire(name)).token,
    [name, settings],
  );
  const got = waiter.evaluate(
    async ([name, settings]) => {
      window.lease = await tabLease.createLocks(settings).acquire(name);
      return { token: lease.token, dirty: lease.dirty, aborted: lease.signal.aborted };
    },
    [name, settings],
  );
  await until("it waits", async () => (await waiters(holder, name)) === 1);
  await block(blocker);
  await holder.evaluate(() => lease.release());
  assert.deepEqual(await got, { token: token + 1, dirty: true, aborted: false });
  await blocker.evaluate(() => unblock());
  await until("it is in the record", () =>
    waiter.evaluate(
      async (name) =>
        (await tabLease.query()).held.some((held) => held.name === name && held.token === lease.token),
      name,
    ),
  );
  assert.equal(await waiter.evaluate(() => lease.signal.aborted), false);
});

test("a released lock lingers: taking it again needs no store, and another tab gets it at once", async () => {
  const name = fresh();
  const [tab, other] = [await open(), await open()];
  const { writes, tokens, dirty } = await tab.evaluate(async (name) => {
    let writes = 0;
    const { put } = IDBObjectStore.prototype;
    IDBObjectStore.prototype.put = function (...args) {
      writes++;
      return put.apply(this, args);
    };
    // A beat so long that none comes in between.
    const locks = (window.locks = tabLease.createLocks({ leaseMs: 60_000 }));
    const tokens = new Set();
    const dirty = [];
    for (let n = 0; n < 20; n++) {
      const lease = await locks.acquire(name);
      tokens.add(lease.token);
      dirty.push(lease.dirty);
      await lease.release();
    }
    return { writes, tokens: tokens.size, dirty: dirty.filter(Boolean).length };
  }, name);
  assert.deepEqual({ writes, tokens, dirty }, { writes: 1, tokens: 1, dirty: 0 });
  // Its beat is six seconds away: no poll could have got it.
  assert.ok(
    await other.evaluate(
      async (name) => (await tabLease.acquire(name, { timeout: 2_000 })).release().then(() => true),
      name,
    ),
  );
});

testThat("G3 progress: the lock of a killed renderer goes to the next tab at once", "crash", async () => {
  const waiter = await open();
  // All of them before the first is killed: not every engine opens tabs after that.
  const holders = [];
  while (holders.length < 7) holders.push(await open());
  const delays = [];
  for (const holder of holders) {
    const name = fresh();
    // Without the beacon it would take 20 seconds.
    await holder.evaluate(
      async (name) => void (window.lease = await tabLease.createLocks({ leaseMs: 20_000 }).acquire(name)),
      name,
    );
    const got = waiter.evaluate(async (name) => {
      const lease = await tabLease.acquire(name, { timeout: 30_000 });
      return { at: Date.now(), dirty: lease.dirty };
    }, name);
    await until("it waits", async () => (await waiters(waiter, name)) === 1);
    // … and has begun to watch the holder.
    await until("it watches", () =>
      waiter.evaluate(async () => (await navigator.locks.query()).pending.length === 1),
    );
    const killed = await browser.crash(holder);
    const { at, dirty } = await got;
    delays.push(at - killed);
    assert.equal(dirty, true);
  }
  // The median: a busy machine may wake anybody late now and then.
  const median = delays.sort((a, b) => a - b)[3];
  assert.ok(median <= 150, `${delays.join(", ")} ms after the kill`);
});

testThat("without Web Locks the lock of a renderer that is killed lapses", "crash", async () => {
  const name = fresh();
  const [holder, waiter] = [await open(), await open()];
  for (const tab of [holder, waiter]) {
    await tab.evaluate(() => Object.defineProperty(navigator, "locks", { value: undefined }));
  }
  const token = await holder.evaluate(
    async (name) => (window.lease = await tabLease.acquire(name)).token,
    name,
  );
  const got = waiter.evaluate(
    async (name) => (await tabLease.acquire(name, { timeout: 20_000 })).token,
    name,
  );
  await until("it waits", async () => (await waiters(waiter, name)) === 1);
  await browser.crash(holder);
  assert.equal(await got, token + 2);
});

test("an idle lease costs few writes, and is short again when somebody waits", async () => {
  const name = fresh();
  const [holder, waiter] = [await open(), await open()];
  const leaseMs = () =>
    holder.evaluate(
      async (name) => (await tabLease.query()).held.find((held) => held.name === name)?.leaseMs,
      name,
    );
  await holder.evaluate(async (name) => void (window.lease = await tabLease.acquire(name)), name);
  await until("it is idle", async () => (await leaseMs()) >= 4_000);
  const got = waiter.evaluate(async (name) => void (await tabLease.acquire(name)), name);
  await until("it is short again", async () => (await leaseMs()) === 500);
  assert.equal(await holder.evaluate(() => lease.signal.aborted), false);
  await holder.evaluate(() => lease.release());
  await got;
});

test("wall clocks that jump by a day or a year, to and fro, steal nothing and wedge nothing", async () => {
  const name = fresh();
  const [holder, waiter] = [await open(), await open()];
  const DAY = 24 * 3600 * 1000;
  const jump = (tab, by) =>
    tab.evaluate((by) => {
      const now = (window.wallClock ??= Date.now);
      Date.now = () => now.call(Date) + by;
    }, by);
  for (const [here, there] of [[DAY, -DAY], [-DAY, DAY], [-365 * DAY, 365 * DAY], [365 * DAY, -365 * DAY]]) {
    await jump(holder, here);
    const token = await holder.evaluate(
      async (name) => (window.lease = await tabLease.acquire(name)).token,
      name,
    );
    await jump(waiter, there);
    const got = waiter.evaluate(async (name) => {
      window.lease = await tabLease.acquire(name);
      return lease.token;
    }, name);
    await until("it waits", async () => (await waiters(holder, name)) === 1);
    await jump(holder, there);
    await jump(waiter, here);
    // Longer than two leases, by a clock that did not jump.
    await holder.evaluate(() => new Promise((resolve) => setTimeout(resolve, 1_200)));
    assert.equal(await holder.evaluate(() => lease.signal.aborted), false, "nothing was stolen");
    assert.equal(await waiters(holder, name), 1);
    await holder.evaluate(() => lease.release());
    assert.equal(await got, token + 1, "and nothing wedged");
    await waiter.evaluate(() => lease.release());
  }
});

test("without BroadcastChannel the lock is handed over all the same", async () => {
  const name = fresh();
  const [holder, waiter] = [await open(), await open()];
  for (const tab of [holder, waiter]) await tab.evaluate(() => delete window.BroadcastChannel);
  await holder.evaluate(async (name) => void (window.lease = await tabLease.acquire(name)), name);
  const got = waiter.evaluate(async (name) => (await tabLease.acquire(name)).token, name);
  await until("it waits", async () => (await waiters(holder, name)) === 1);
  const token = await holder.evaluate(() => lease.release().then(() => lease.token));
  assert.equal(await got, token + 2);
});

test('scope "request": calls in one tab take turns, with those of other tabs', async () => {
  const name = fresh();
  const both = [await open(), await open()];
  const sections = 30;
  const run = async ([name, sections]) => {
    const locks = tabLease.createLocks({ leaseMs: 20_000 });
    const one = (lease) => counter.increment(name).then(() => lease.token);
    return Promise.all(
      Array.from({ length: sections }, () => locks.withLease(name, { scope: "request" }, one)),
    );
  };
  const tokens = (await Promise.all(both.map((tab) => tab.evaluate(run, [name, sections])))).flat();
  assert.equal(await both[0].evaluate((name) => counter.read(name), name), 2 * sections);
  assert.equal(new Set(tokens).size, 2 * sections, "every call had a lease of its own");
});

test("junk on the channel is ignored", async () => {
  const name = fresh();
  const tab = await open();
  const errors = await tab.evaluate(async (name) => {
    const errors = [];
    for (const kind of ["error", "unhandledrejection"])
      addEventListener(kind, ({ message, reason }) => errors.push(message ?? String(reason)));
    const lease = await tabLease.acquire(name);
    const channel = new BroadcastChannel("tab-lease:tab-lease");
    for (const junk of [null, 7, "x", {}, [], [1, 2], [name], [name, {}], new Map()])
      channel.postMessage(junk);
    await new Promise((resolve) => setTimeout(resolve));
    await lease.release();
    return errors;
  }, name);
  assert.deepEqual(errors, []);
  assert.ok(await tab.evaluate(async (name) => (await tabLease.tryAcquire(name)) !== null, name));
});

testThat("a frozen tab, granted the lock, opens no transaction and loses its turn", "freeze", async () => {
  const name = fresh();
  const [holder, frozen, heir] = [await open(), await open(), await open()];
  // With so long a lease the waiters look only once a second: the freeze does not find one looking.
  await holder.evaluate(async (name) => {
    window.lease = await tabLease.createLocks({ leaseMs: 20_000 }).acquire(name);
  }, name);
  await frozen.evaluate((name) => void tabLease.acquire(name).catch(() => {}), name);
  await until("it waits", async () => (await waiters(holder, name)) === 1);
  await browser.freeze(frozen);
  const got = heir.evaluate(
    (name) => outcome(tabLease.acquire(name, { timeout: 20_000 }).then(({ token }) => token)),
    name,
  );
  await until("both wait", async () => (await waiters(holder, name)) === 2);
  const token = await holder.evaluate(() => lease.release().then(() => lease.token));
  // First the frozen tab's turn (by message, then by the store), which nobody renews, then the heir's.
  assert.deepEqual(await got, { value: token + 3 });
});
