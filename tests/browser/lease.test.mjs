// The JavaScript surface in real tabs: what a caller is told, and what other tabs see.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, testThat, until } from "./engine.mjs";

const LEASE_MS = 500;
const IDLE_LEASE_MS = 5_000;
const BEAT_MS = 50;

let browser;
const tabs = [];
/** What the server does with requests for the wasm. */
let answerWasm = () => false;

before(async () => {
  browser = await launch({
    answer: (request, response) => {
      // A sandboxed page has an origin of its own, and must be let in.
      response.setHeader("access-control-allow-origin", "*");
      if (request.url.endsWith(".wasm")) return answerWasm(response);
      if (request.url === "/sandboxed") {
        response.setHeader("content-security-policy", "sandbox allow-scripts");
        response.setHeader("content-type", "text/html");
        response.end(
          '<link rel="icon" href="data:,"><script src="/tests/browser/agent.js"></script>' +
            "<script>window.ready = true</script>",
        );
        return true;
      }
      return false;
    },
  });
});
after(() => browser?.close());
afterEach(async () => {
  answerWasm = () => false;
  await Promise.all(tabs.splice(0).map((tab) => tab.close()));
});

async function open(page) {
  const tab = await browser.open(page);
  tabs.push(tab);
  return tab;
}

let names = 0;
/** A lock name that no other test uses. */
const fresh = () => `test ${++names}`;

/** Whether a try gets the lock. */
const getsIt = (tab, name) => tab.evaluate(async (name) => (await tabLease.tryAcquire(name)) !== null, name);

test("a tab closed while holding: the next gets the lock within a lease and a beat", async () => {
  const waiter = await open();
  const delays = [];
  for (let round = 0; round < 7; round++) {
    const name = fresh();
    const holder = await open();
    const token = await holder.evaluate(
      async (name) => (window.lease = await tabLease.acquire(name)).token,
      name,
    );
    const got = waiter.evaluate(async (name) => {
      const lease = await tabLease.acquire(name);
      return { at: Date.now(), token: lease.token, dirty: lease.dirty };
    }, name);
    await until("it waits", () => waiter.evaluate(async (name) => (await waiting(name)) === 1, name));
    tabs.splice(tabs.indexOf(holder), 1);
    await holder.close();
    const closed = Date.now();
    const { at, token: next, dirty } = await got;
    delays.push(at - closed);
    assert.equal(next, token + 2);
    assert.equal(dirty, true);
  }
  // The median: a busy machine may wake anybody late now and then.
  const median = delays.sort((a, b) => a - b)[3];
  assert.ok(median <= LEASE_MS + BEAT_MS, `${delays.join(", ")} ms after the close`);
});

test("a tab reloaded while holding: the next gets the lock, and hands it back to the new page", async () => {
  const name = fresh();
  const [holder, waiter] = [await open(), await open()];
  const token = await holder.evaluate(
    async (name) => (window.lease = await tabLease.acquire(name)).token,
    name,
  );
  const got = waiter.evaluate(async (name) => {
    window.lease = await tabLease.acquire(name);
    return { token: lease.token, dirty: lease.dirty };
  }, name);
  await until("it waits", () => waiter.evaluate(async (name) => (await waiting(name)) === 1, name));
  await holder.reload();
  const next = await got;
  assert.ok(next.token > token);
  assert.equal(next.dirty, true);
  await holder.waitForFunction(() => window.ready && window.lease === undefined);
  const again = holder.evaluate(async (name) => (await tabLease.acquire(name)).token, name);
  await waiter.evaluate(() => lease.release());
  assert.ok((await again) > next.token);
});

test("G4 notice: a tab that hung past its lease is told, and the other one holds", async () => {
  const name = fresh();
  const [hung, heir] = [await open(), await open()];
  await hung.evaluate(async (name) => {
    window.lease = await tabLease.acquire(name);
    window.reason = aborted(lease.signal);
  }, name);
  const heirs = heir.evaluate(async (name) => (window.lease = await tabLease.acquire(name)).token, name);
  await hung.evaluate(() => {
    const end = performance.now() + 1_500;
    while (performance.now() < end);
  });
  const reason = await hung.evaluate(async () => {
    const { name, code, token } = await window.reason;
    return { name, code, token, mine: lease.token };
  });
  assert.equal(reason.name, "LeaseLostError");
  // The last, if it hung while a renewal was under way, and its timer fires before the store's answer.
  assert.match(reason.code, /^LEASE_(EXPIRED|SUPERSEDED|STORE_FAILED)$/);
  assert.equal(reason.token, reason.mine);
  assert.ok((await heirs) > reason.token);
  // The lost lease is not shared with the next caller in that tab, and releasing it takes nothing away.
  assert.equal(await hung.evaluate((name) => tabLease.tryAcquire(name), name), null);
  await hung.evaluate(() => lease.release());
  assert.equal(await heir.evaluate(() => lease.signal.aborted), false);
  assert.equal(await hung.evaluate((name) => tabLease.tryAcquire(name), name), null);
});

test("callers in one tab share the lock until the last has released it", async () => {
  const name = fresh();
  const [here, there] = [await open(), await open()];
  const shared = await here.evaluate(async (name) => {
    window.leases = [
      await tabLease.acquire(name),
      await tabLease.acquire(name),
      await tabLease.tryAcquire(name),
    ];
    await leases[0].release();
    await leases[0].release();
    await leases[1].release();
    return new Set(leases.map(({ token }) => token)).size;
  }, name);
  assert.equal(shared, 1);
  assert.equal(await there.evaluate((name) => tabLease.tryAcquire(name), name), null);
  await here.evaluate(() => leases[2].release());
  assert.ok(await getsIt(there, name));
});

test("a release lets the waiter in, and dirty says whether another tab had the lock meanwhile", async () => {
  const name = fresh();
  const [one, two] = [await open(), await open()];
  const turn = async (name) => {
    const lease = await tabLease.acquire(name);
    await lease.release();
    return lease.dirty;
  };
  assert.equal(await one.evaluate(turn, name), false, "nobody ever had it");
  assert.equal(await one.evaluate(turn, name), false, "only we had it");
  assert.equal(await two.evaluate(turn, name), true, "another had it before");
  assert.equal(await two.evaluate(turn, name), false);
  assert.equal(await one.evaluate(turn, name), true);
});

test("timeout, tryAcquire and cancellation", async () => {
  const name = fresh();
  const [holder, other] = [await open(), await open()];
  await holder.evaluate(async (name) => (window.lease = await tabLease.acquire(name)), name).catch(() => {});
  const calls = await other.evaluate(async (name) => {
    const controller = new AbortController();
    const cancelled = outcome(tabLease.acquire(name, { signal: controller.signal }));
    setTimeout(() => controller.abort(new Error("never mind")), 50);
    return {
      late: await outcome(tabLease.acquire(name, { timeout: 60 })),
      once: await outcome(tabLease.acquire(name, { timeout: 0 })),
      tried: await outcome(tabLease.tryAcquire(name)),
      cancelled: await cancelled,
      aborted: await outcome(tabLease.acquire(name, { signal: AbortSignal.abort() })),
      timedOut: await outcome(tabLease.acquire(name, { signal: AbortSignal.timeout(50) })),
    };
  }, name);
  for (const timed of [calls.late, calls.once]) {
    assert.equal(timed.error.name, "TimeoutError");
    assert.equal(timed.error.code, "TIMEOUT");
    assert.match(timed.error.message, new RegExp(name));
  }
  assert.deepEqual(calls.tried, { value: null });
  assert.equal(calls.cancelled.error.message, "never mind");
  assert.equal(calls.aborted.error.name, "AbortError");
  assert.equal(calls.timedOut.error.name, "TimeoutError");
  // Those who gave up are out of the queue, and the lock is not lost on one of them.
  await until("nobody waits", () =>
    other.evaluate(async (name) => (await waiting(name)) === 0, name),
  );
  await holder.evaluate(() => lease.release());
  assert.ok(await getsIt(other, name));
});

test("withLease releases however the callback ends, and tells of a loss", async () => {
  const name = fresh();
  const tab = await open();
  const ends = await tab.evaluate(async (name) => {
    // A released lock lingers for a beat.
    const free = async () => {
      while ((await tabLease.query()).held.some((held) => held.name === name));
      return true;
    };
    const value = await outcome(tabLease.withLease(name, async (lease) => lease.token > 0));
    const free1 = await free();
    const thrown = await outcome(
      tabLease.withLease(name, { timeout: 1000 }, () => {
        throw new Error("mine");
      }),
    );
    const free2 = await free();
    const lost = await outcome(
      tabLease.withLease(name, async (lease) => {
        indexedDB.deleteDatabase("tab-lease");
        await aborted(lease.signal);
        return "done";
      }),
    );
    return { value, free1, thrown, free2, lost };
  }, name);
  assert.deepEqual(ends.value, { value: true });
  assert.equal(ends.thrown.error.message, "mine");
  assert.ok(ends.free1 && ends.free2);
  assert.equal(ends.lost.error.name, "LeaseLostError");
  assert.equal(ends.lost.error.code, "LEASE_STORE_CLOSED");
});

test("a signal that is first asked for after the loss is aborted, and says why", async () => {
  const name = fresh();
  const tab = await open();
  const late = await tab.evaluate(async (name) => {
    const [lease, shared] = [await tabLease.acquire(name), await tabLease.acquire(name)];
    // At the first word of it, before the second lease can have heard by its own way.
    const told = new Promise(
      (resolve) => (lease.signal.onabort = () => resolve([shared.signal.aborted, shared.signal.reason])),
    );
    indexedDB.deleteDatabase("tab-lease");
    const [aborted, reason] = await told;
    const thrown = await outcome((async () => shared.signal.throwIfAborted())());
    const { signal } = shared;
    const same = [signal.reason === reason, reason.token === shared.token, signal === shared.signal];
    return { aborted, code: reason.code, thrown: thrown.error.code, same };
  }, name);
  const code = "LEASE_STORE_CLOSED";
  assert.deepEqual(late, { aborted: true, code, thrown: code, same: [true, true, true] });
});

test("await using releases at the end of the block", async () => {
  const name = fresh();
  const [tab, other] = [await open(), await open()];
  await tab.evaluate(async (name) => {
    const lease = await tabLease.acquire(name);
    // What compilers make of it, where there is no such symbol yet.
    await lease[Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]();
  }, name);
  assert.ok(await getsIt(other, name));
});

testThat("a lease that is collected unreleased is released, with one warning", "collect", async () => {
  const name = fresh();
  const [careless, other] = [await open(), await open()];
  await careless.evaluate(async (name) => {
    window.warnings = [];
    console.warn = (warning) => warnings.push(warning);
    window.signal = await (async () => {
      const { signal } = await tabLease.acquire(name);
      return signal;
    })();
    await (await tabLease.acquire(`${name}, released`)).release();
  }, name);
  assert.equal(await other.evaluate((name) => tabLease.tryAcquire(name), name), null);
  await until("it is collected", async () => {
    await browser.collect(careless);
    return careless.evaluate(() => signal.aborted);
  });
  assert.equal(await careless.evaluate(() => signal.reason.code), "LEASE_COLLECTED");
  await until("it is free", () => getsIt(other, name));
  await browser.collect(careless);
  const warnings = await careless.evaluate(() => warnings);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], new RegExp(`"${name}" was garbage-collected`));
});

testThat("a lease that was lost needs no release: its collection is no news", "collect", async () => {
  const name = fresh();
  const tab = await open();
  await tab.evaluate(async (name) => {
    window.warnings = [];
    console.warn = (warning) => warnings.push(warning);
    await (async () => {
      const lease = await tabLease.acquire(name);
      window.gone = new WeakRef(lease);
      indexedDB.deleteDatabase("tab-lease");
      await aborted(lease.signal);
    })();
  }, name);
  await until("it is collected", async () => {
    await browser.collect(tab);
    return tab.evaluate(() => gone.deref() === undefined);
  });
  const warnings = await tab.evaluate(
    () => new Promise((resolve) => setTimeout(resolve, 0, window.warnings)),
  );
  assert.deepEqual(warnings, []);
});

test("any string is a name, each its own, and query tells it as it was given", async () => {
  const database = fresh();
  const [one, two] = [await open(), await open()];
  const odd = [
    ...["😀", "quote \" ' `", "<b>", "x".repeat(10_000), "__proto__", "constructor", " ", "\0"],
    ...["\ud800", "\udc00", "\uffff", "\ufffd", "\uffffd800", "a\ud800b"],
  ].map((name) => [...Array(name.length).keys()].map((n) => name.charCodeAt(n)));
  // As code units, since lone surrogates do not survive the way to the page.
  await one.evaluate(
    async ([database, odd]) => {
      const locks = tabLease.createLocks({ database });
      window.leases = [];
      for (const units of odd) leases.push(await locks.acquire(String.fromCharCode(...units)));
    },
    [database, odd],
  );
  const seen = await two.evaluate(async (database) => {
    const locks = tabLease.createLocks({ database });
    const { held } = await locks.query();
    const refused = await Promise.all(held.map(async ({ name }) => (await locks.tryAcquire(name)) === null));
    return {
      names: held.map(({ name }) => [...Array(name.length).keys()].map((n) => name.charCodeAt(n))),
      refused,
    };
  }, database);
  const sorted = (names) => names.map((units) => units.join()).sort();
  assert.deepEqual(sorted(seen.names), sorted(odd));
  assert.ok(seen.refused.every((refused) => refused));
});

test("query tells who holds and who waits", async () => {
  const name = fresh();
  const [holder, waiter] = [await open(), await open()];
  const token = await holder.evaluate(async (name) => {
    window.lease = await tabLease.createLocks({ holder: "first", leaseMs: 700 }).acquire(name);
    return lease.token;
  }, name);
  await waiter.evaluate((name) => void tabLease.createLocks({ holder: "second" }).acquire(name), name);
  const seen = await until("somebody waits", () =>
    waiter.evaluate(async (name) => {
      const { held, pending } = await tabLease.query();
      const of = (lock) => lock.name === name;
      return pending.some(of) && { held: held.filter(of), pending: pending.filter(of) };
    }, name),
  );
  const [held] = seen.held;
  assert.match(held.clientId, /^first#[0-9a-v]{10}$/);
  assert.deepEqual(
    { mode: held.mode, token: held.token, leaseMs: held.leaseMs },
    { mode: "exclusive", token, leaseMs: 700 },
  );
  assert.ok(Math.abs(held.since - Date.now()) < 60_000);
  assert.deepEqual(seen.pending.map(({ name }) => name), [name]);
  assert.match(seen.pending[0].clientId, /^second#/);
  // The default lease, as the Rust crate has it.
  await holder.evaluate(() => lease.release());
  const second = await until("the second holds", () =>
    waiter.evaluate(async (name) => (await tabLease.query()).held.find((held) => held.name === name), name),
  );
  // … or, if it has been renewed since, the long one: nobody waits.
  assert.ok([LEASE_MS, IDLE_LEASE_MS].includes(second.leaseMs), second.leaseMs);
});

test("bad arguments are refused before anything is touched", async () => {
  const tab = await open();
  const calls = await tab.evaluate(async () => {
    const { acquire, tryAcquire, withLease, createLocks } = tabLease;
    const all = {
      TypeError: [
        () => acquire(), () => acquire(""), () => acquire(7), () => acquire(null), () => acquire({}),
        () => tryAcquire(""), () => withLease("", () => {}), () => withLease("a"),
        () => withLease("a", {}, "callback"),
        () => acquire("a", null), () => acquire("a", 5), () => acquire("a", { timeout: "5" }),
        () => acquire("a", { signal: {} }), () => acquire("a", { signal: null }),
        () => acquire("a", { mode: "shared" }), () => acquire("a", { steal: true }),
        () => acquire("a", { scope: "page" }), () => tryAcquire("a", { timeout: 5 }),
        () => createLocks("x"), () => createLocks(null), () => createLocks({ leaseMs: "500" }),
        () => createLocks({ database: "" }),
        () => createLocks({ database: 5 }), () => createLocks({ holder: "" }),
        () => createLocks({ leasMs: 500 }),
      ],
      RangeError: [
        () => acquire("a", { timeout: -1 }), () => acquire("a", { timeout: NaN }),
        () => acquire("a", { timeout: -Infinity }),
        () => createLocks({ leaseMs: 0 }), () => createLocks({ leaseMs: -5 }),
        () => createLocks({ leaseMs: NaN }),
        () => createLocks({ leaseMs: Infinity }), () => createLocks({ leaseMs: 600_001 }),
        () => createLocks({ heartbeatMs: 500 }),
        () => createLocks({ heartbeatMs: 0 }), () => createLocks({ leaseMs: 100, heartbeatMs: 100 }),
        () => createLocks({ storeTimeoutMs: -1 }), () => createLocks({ storeTimeoutMs: Infinity }),
      ],
    };
    const failures = [];
    for (const [kind, calls] of Object.entries(all)) {
      for (const call of calls) {
        const { error } = await outcome((async () => call())());
        if (error?.kind !== kind || error.code !== "BAD_ARGUMENT" || !error.message)
          failures.push([kind, String(call), error]);
      }
    }
    const reason = new Error("mine");
    const { error } = await outcome(acquire("a", { signal: AbortSignal.abort(reason) }));
    if (error?.message !== "mine") failures.push(["the signal's reason", error]);
    const wasm = performance.getEntriesByType("resource").filter(({ name }) => name.endsWith(".wasm"));
    return { failures, wasm: wasm.length };
  });
  assert.deepEqual(calls, { failures: [], wasm: 0 });
});

test("a failed load is told, and retried by the next call", async () => {
  const name = fresh();
  let refused = 0;
  answerWasm = (response) => {
    refused++;
    response.writeHead(503).end();
    return true;
  };
  const tab = await open();
  const first = await tab.evaluate((name) => outcome(tabLease.acquire(name)), name);
  assert.equal(first.error.name, "StoreError");
  assert.equal(first.error.code, "STORE_LOAD_FAILED");
  assert.ok(first.error.cause);
  assert.equal(refused, 1);
  answerWasm = () => false;
  assert.ok(await tab.evaluate(async (name) => (await tabLease.acquire(name)).token > 0, name));
});

test("a load that hangs does not outlast the caller's deadline", async () => {
  const name = fresh();
  let hanging;
  answerWasm = (response) => {
    hanging = response;
    return true;
  };
  const tab = await open();
  const ends = await tab.evaluate(async (name) => {
    const impatient = tabLease.createLocks({ storeTimeoutMs: 150 });
    return {
      late: await outcome(tabLease.acquire(name, { timeout: 100 })),
      cancelled: await outcome(tabLease.acquire(name, { signal: AbortSignal.timeout(50) })),
      tried: await outcome(impatient.tryAcquire(name)),
    };
  }, name);
  assert.equal(ends.late.error.code, "TIMEOUT");
  assert.equal(ends.cancelled.error.name, "TimeoutError");
  assert.equal(ends.tried.error.code, "STORE_LOAD_FAILED");
  hanging.destroy();
});

test("IndexedDB refused (a sandboxed frame): a StoreError with the browser's cause", async () => {
  const tab = await open("/sandboxed");
  const { error } = await tab.evaluate(async (origin) => {
    const { tryAcquire } = await import(`${origin}/js/index.js`);
    return tryAcquire("a").then(
      () => ({}),
      ({ name, code, cause }) => ({ error: { name, code, cause: cause?.name } }),
    );
  }, browser.origin);
  assert.deepEqual(error, { name: "StoreError", code: "STORE_UNAVAILABLE", cause: "SecurityError" });
});

test("IndexedDB missing: a StoreError with a cause", async () => {
  const tab = await open();
  const { error } = await tab.evaluate(() => {
    Object.defineProperty(window, "indexedDB", { value: undefined });
    return outcome(tabLease.acquire("a"));
  });
  assert.equal(error.code, "STORE_UNAVAILABLE");
  assert.ok(error.cause);
});

test("an upgrade blocked by another tab: an error that says so, and recovery when it lets go", async () => {
  const [blocker, tab] = [await open(), await open()];
  const database = fresh();
  // An empty database of that name, kept open by a tab that does not listen for versionchange.
  await blocker.evaluate(
    (database) =>
      new Promise((resolve) => {
        indexedDB.open(database).onsuccess = ({ target }) => {
          window.db = target.result;
          resolve();
        };
      }),
    database,
  );
  const { error } = await tab.evaluate((database) => {
    window.locks = tabLease.createLocks({ database });
    return outcome(locks.acquire("a", { timeout: 5_000 }));
  }, database);
  assert.equal(error.name, "StoreError");
  assert.equal(error.code, "STORE_BLOCKED");
  assert.match(error.message, /blocked by another tab/);
  await blocker.evaluate(() => db.close());
  await until("it is unblocked", () =>
    tab.evaluate(async () => "value" in (await outcome(locks.tryAcquire("a")))),
  );
});

test("a store that another tab blocks: the caller's deadline or the store's ends the call", async () => {
  const name = fresh();
  const [blocker, tab] = [await open(), await open()];
  await blocker.evaluate(async (name) => {
    await (await tabLease.acquire(name)).release();
    const db = await new Promise((resolve) => {
      indexedDB.open("tab-lease").onsuccess = ({ target }) => resolve(target.result);
    });
    const store = db.transaction("leases", "readwrite").objectStore("leases");
    const spin = () => void (window.enough || (store.count().onsuccess = spin));
    spin();
  }, name);
  const ends = await tab.evaluate(async (name) => {
    const locks = tabLease.createLocks({ storeTimeoutMs: 300 });
    return {
      deadline: await outcome(locks.acquire(name, { timeout: 100 })),
      store: await outcome(locks.acquire(name, { timeout: 5_000 })),
      tried: await outcome(locks.tryAcquire(name)),
      queried: await outcome(locks.query()),
    };
  }, name);
  assert.equal(ends.deadline.error.code, "TIMEOUT");
  for (const stalled of [ends.store, ends.tried, ends.queried])
    assert.equal(stalled.error.code, "STORE_STALLED");
  await blocker.evaluate(() => (window.enough = true));
  await until("the store answers", () =>
    tab.evaluate(async (name) => (await outcome(tabLease.tryAcquire(name))).value != null, name),
  );
});

testThat("site data cleared: the holder is told, and the next call recovers", "clearSiteData", async () => {
  const name = fresh();
  const tab = await open();
  const token = await tab.evaluate(async (name) => {
    window.lease = await tabLease.acquire(name);
    window.reason = aborted(lease.signal);
    return lease.token;
  }, name);
  await browser.clearSiteData(tab);
  assert.equal(await tab.evaluate(() => window.reason.then(({ code }) => code)), "LEASE_STORE_CLOSED");
  const next = await tab.evaluate(async (name) => {
    const { token, dirty } = await tabLease.acquire(name, { timeout: 5_000 });
    return { token, dirty };
  }, name);
  assert.ok(next.token > token, "tokens outlive a deletion");
  assert.equal(next.dirty, true);
});

test("a damaged record: a StoreError, never a free lock", async () => {
  const name = fresh();
  const tab = await open();
  const { error } = await tab.evaluate(async (name) => {
    await (await tabLease.acquire(name)).release();
    // It lingers for a beat, in which no record is read.
    while ((await tabLease.query()).held.some((held) => held.name === name));
    await new Promise((resolve) => {
      indexedDB.open("tab-lease").onsuccess = ({ target }) => {
        const tx = target.result.transaction("leases", "readwrite");
        tx.objectStore("leases").put({ holder: null }, name);
        tx.oncomplete = resolve;
      };
    });
    return outcome(tabLease.tryAcquire(name));
  }, name);
  assert.equal(error.code, "STORE_CORRUPT");
});

test("a foreign database is left alone", async () => {
  const tab = await open();
  const database = fresh();
  const { error, stores } = await tab.evaluate(async (database) => {
    await new Promise((resolve) => {
      const request = indexedDB.open(database, 4);
      request.onupgradeneeded = () => request.result.createObjectStore("mails");
      request.onsuccess = () => resolve(request.result.close());
    });
    const { error } = await outcome(tabLease.createLocks({ database }).acquire("a"));
    const db = await new Promise((resolve) => {
      indexedDB.open(database, 4).onsuccess = ({ target }) => resolve(target.result);
    });
    return { error, stores: [...db.objectStoreNames] };
  }, database);
  assert.equal(error.code, "STORE_FOREIGN");
  assert.deepEqual(stores, ["mails"]);
});
