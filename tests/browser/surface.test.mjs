// Leases and locks as JavaScript objects: passed on, wrapped, shared; and what the page's own state does to
// them: a stop within a task, fake timers, a prerendered page, browser functions that answer oddly.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, testThat, until } from "./engine.mjs";

let browser;
const tabs = [];

before(async () => (browser = await launch()));
after(() => browser?.close());
afterEach(() => Promise.all(tabs.splice(0).map((tab) => tab.close())));

async function open(page) {
  const tab = await browser.open(page);
  tabs.push(tab);
  await tab.evaluate(() => {
    /** As frameworks wrap what is in their state, and deeper: methods, too, and no `this` but the proxy. */
    window.membrane = (value) => {
      if (value === null || !["object", "function"].includes(typeof value)) return value;
      if (value instanceof Promise) return value.then(membrane);
      return new Proxy(value, {
        get: (target, key, receiver) => membrane(Reflect.get(target, key, receiver)),
        apply: (target, that, args) => membrane(Reflect.apply(target, that, args)),
      });
    };
    /** The page stops in the middle of a task, as in `confirm()`. */
    window.stop = (ms) => {
      const end = performance.now() + ms;
      while (performance.now() < end);
    };
  });
  return tab;
}

let names = 0;
const fresh = () => `surface ${++names}`;

/** Whether a try gets the lock, in the end. */
const getsIt = (tab, name) =>
  until(`another tab gets "${name}"`, () =>
    tab.evaluate(async (name) => (await tabLease.tryAcquire(name)) !== null, name),
  );

test("a lease and its locks work through a proxy that wraps everything", async () => {
  const name = fresh();
  const [tab, other] = [await open(), await open()];
  const seen = await tab.evaluate(async (name) => {
    const locks = membrane(tabLease.createLocks());
    const lease = await locks.acquire(name);
    const inner = await locks.acquire(name, { within: lease });
    const value = await locks.withLease(name, { within: lease }, (lease) => lease.token);
    const told = [lease.signal.aborted, lease.signal.reason, lease.signal.throwIfAborted()];
    const seen = [
      lease.name,
      value === lease.token,
      inner.token === lease.token,
      typeof lease.epoch,
      lease.dirty,
      told,
    ];
    await inner.release();
    await lease[Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]();
    return JSON.stringify(seen);
  }, name);
  assert.equal(seen, JSON.stringify([name, true, true, "number", false, [false, null, null]]));
  await getsIt(other, name);
});

test("members of a lease and of locks are passed on alone", async () => {
  const name = fresh();
  const [tab, other] = [await open(), await open()];
  const seen = await tab.evaluate(async (name) => {
    const { acquire, tryAcquire, withLease, query } = tabLease.createLocks();
    const lease = await acquire(name);
    const { release, token, ...rest } = lease;
    const tried = await tryAcquire(name);
    await tried.release.call(undefined);
    const held = (await query()).held.find((held) => held.name === name);
    const value = await withLease(name, () => "value");
    // As an event listener: called with an event, and with the element as `this`.
    const button = document.body.appendChild(document.createElement("button"));
    const released = new Promise((resolve) => {
      button.addEventListener("click", release);
      button.addEventListener("click", () => resolve(release()));
    });
    button.click();
    await released;
    return { token: token === held.token, copied: rest.signal === lease.signal, value };
  }, name);
  assert.deepEqual(seen, { token: true, copied: true, value: "value" });
  await getsIt(other, name);
});

test("a lease is printed with what it is, and is no plain object that frameworks copy", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (name) => {
    const locks = tabLease.createLocks();
    const lease = await locks.acquire(name);
    const { token, epoch, dirty } = lease;
    const told = JSON.parse(JSON.stringify(lease));
    delete told.signal;
    const same = JSON.stringify(told) === JSON.stringify({ name, token, epoch, dirty });
    return [same, String(lease), String(locks), Object.getPrototypeOf(lease) === Object.prototype];
  }, fresh());
  assert.deepEqual(seen, [true, "[object Lease]", "[object Locks]", false]);
});

testThat("code that keeps one member of a lease keeps the lock", "collect", async () => {
  const [name, dropped] = [fresh(), fresh()];
  const [tab, other] = [await open(), await open()];
  await tab.evaluate(
    async ([name, dropped]) => {
      console.warn = () => {};
      window.free = (await tabLease.acquire(name)).release;
      window.signal = (await tabLease.acquire(dropped)).signal;
    },
    [name, dropped],
  );
  await until("the other lease is collected", async () => {
    await browser.collect(tab);
    return tab.evaluate(() => signal.aborted);
  });
  assert.equal(await other.evaluate((name) => tabLease.tryAcquire(name), name), null);
  await tab.evaluate(() => free());
  await getsIt(other, name);
});

/** What a page may touch first after a stop, each a way into the package, or to a signal. */
const FIRST = {
  "a signal made by AbortSignal.any": ({ derived }) => derived.aborted,
  "its reason": ({ derived }) => derived.reason,
  "its throwIfAborted": ({ derived }) => outcome((async () => derived.throwIfAborted())()),
  "a signal of the page's own": () => new AbortController().signal.aborted,
  "the lease's signal": ({ lease }) => lease.signal,
  "the lease's token": ({ lease }) => lease.token,
  "whether it is dirty": ({ lease }) => lease.dirty,
  "its epoch": ({ lease }) => lease.epoch,
  "its release": ({ lease }) => lease.release(),
  "a transaction": ({ lease }) => outcome(lease.transaction("a", "readonly", () => {})),
  "another lease": ({ another }) => another.token,
  "another try": ({ name }) => void outcome(tabLease.tryAcquire(name)),
  "an event that the wasm hears": () => document.dispatchEvent(new Event("visibilitychange")),
  "a question to other locks": ({ locks }) => void outcome(locks.query()),
};

test("a stop within one task: whatever is asked first says that the lease is lost", async () => {
  const tab = await open();
  // The platform's word, whatever the package makes of it.
  await tab.evaluate(
    () => (window.native = Object.getOwnPropertyDescriptor(AbortSignal.prototype, "aborted").get),
  );
  for (const [what, touch] of Object.entries(FIRST)) {
    const name = fresh();
    const seen = await tab.evaluate(
      async ([name, touch]) => {
        const locks = tabLease.createLocks({ database: "elsewhere" });
        const lease = await tabLease.acquire(name);
        const another = await locks.acquire(name);
        const { signal } = lease;
        const derived = AbortSignal.any([signal, new AbortController().signal]);
        // Somebody waits, so that the lease is cut to its usual length.
        const contender = new AbortController();
        outcome(tabLease.acquire(name, { scope: "request", signal: contender.signal }));
        const cut = async () =>
          (await tabLease.query()).held.find((held) => held.name === name).leaseMs === 500;
        while (!(await waiting(name)) || !(await cut()));
        const before = [native.call(signal), native.call(derived)];
        stop(700);
        (0, eval)(`(${touch})`)({ derived, lease, another, name, locks });
        const now = [native.call(signal), native.call(derived)];
        contender.abort();
        return { before, now, reason: derived.reason?.name };
      },
      [name, String(touch)],
    );
    assert.deepEqual(seen, { before: [false, false], now: [true, true], reason: "LeaseLostError" }, what);
  }
});

test("signals of the page are as they were, but for the look", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (name) => {
    const shape = () =>
      ["aborted", "reason", "throwIfAborted"].map((name) => {
        const found = Object.getOwnPropertyDescriptor(AbortSignal.prototype, name);
        const { get, set, value, ...rest } = found;
        const { name: called, length } = get ?? value;
        return { ...rest, set, called, length, constructs: "prototype" in (get ?? value) };
      });
    const keys = () => Reflect.ownKeys(AbortSignal.prototype).map(String);
    const before = JSON.stringify([shape(), keys()]);
    const lease = await tabLease.acquire(name);
    const untouched = Object.getOwnPropertyDescriptor(AbortSignal.prototype, "aborted").get;
    void lease.signal;
    const { get } = Object.getOwnPropertyDescriptor(AbortSignal.prototype, "aborted");
    const same = JSON.stringify([shape(), keys()]) === before;
    const refuses = await outcome((async () => get.call({}))());
    // A signal of another realm, which has getters of its own.
    const frame = document.body.appendChild(document.createElement("iframe"));
    const foreign = new frame.contentWindow.AbortController();
    const open = get.call(foreign.signal);
    foreign.abort("mine");
    const other = [open, get.call(foreign.signal), foreign.signal.reason];
    const again =
      (await tabLease.acquire(name)).signal &&
      get === Object.getOwnPropertyDescriptor(AbortSignal.prototype, "aborted").get;
    return { patched: get !== untouched, same, refuses: refuses.error?.name, other, again };
  }, fresh());
  assert.deepEqual(seen, {
    patched: true,
    same: true,
    refuses: "TypeError",
    other: [false, true, "mine"],
    again: true,
  });
});

test("where the platform's prototypes are frozen, the lease's own signal looks all the same", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (name) => {
    Object.freeze(AbortSignal.prototype);
    const { signal } = await tabLease.acquire(name);
    const before = signal.aborted;
    outcome(tabLease.acquire(name, { scope: "request", signal: AbortSignal.timeout(5_000) }));
    const cut = async () => (await tabLease.query()).held.find((held) => held.name === name).leaseMs === 500;
    while (!(await waiting(name)) || !(await cut()));
    stop(700);
    return [before, signal.aborted, signal.reason.name];
  }, fresh());
  assert.deepEqual(seen, [false, true, "LeaseLostError"]);
});

test("within: code under a lock takes it again at once, and the last release frees it", async () => {
  const [name, apart] = [fresh(), fresh()];
  const [tab, other] = [await open(), await open()];
  await tab.evaluate(
    async ([name, apart]) => {
      window.outer = await tabLease.acquire(name);
      window.alone = await tabLease.acquire(apart, { scope: "request" });
    },
    [name, apart],
  );
  const next = other.evaluate(
    async (names) => {
      for (const name of names) await (await tabLease.acquire(name)).release();
      return "let in";
    },
    [name, apart],
  );
  await until("it waits", () => other.evaluate(async (name) => (await waiting(name)) === 1, name));
  const seen = await tab.evaluate(
    async ([name, apart]) => {
      const inner = await tabLease.acquire(name, { within: outer });
      const tried = await tabLease.tryAcquire(name, { within: inner });
      const ran = await tabLease.withLease(apart, { within: alone }, (lease) => lease.token === alone.token);
      await outer.release();
      await tried.release();
      await alone.release();
      window.inner = inner;
      return [
        inner.token === outer.token,
        inner.epoch === outer.epoch,
        tried.token === outer.token,
        ran,
        inner.signal.aborted,
      ];
    },
    [name, apart],
  );
  assert.deepEqual(seen, [true, true, true, true, false]);
  assert.equal(
    await other.evaluate((name) => tabLease.tryAcquire(name), name),
    null,
    "one of three is still held",
  );
  await tab.evaluate(() => inner.release());
  assert.equal(await next, "let in");
});

test("within: only a lease of that name and of those locks, which is neither lost nor released", async () => {
  const name = fresh();
  const tab = await open();
  const seen = await tab.evaluate(async (name) => {
    const { acquire, tryAcquire, withLease, createLocks } = tabLease;
    const lease = await acquire(name);
    const told = async (promise) => (await outcome(promise)).error?.code;
    const refused = [
      await told(acquire("another", { within: lease })),
      await told(createLocks().acquire(name, { within: lease })),
      await told(acquire(name, { within: { name } })),
      await told(tryAcquire(name, { within: null })),
      await told(withLease(name, { within: 7 }, () => {})),
      await told(acquire(name, { within: lease, scope: "request" })),
    ];
    const controller = new AbortController();
    controller.abort("mine");
    const cancelled = await acquire(name, { within: lease, signal: controller.signal }).catch(
      (reason) => reason,
    );
    await lease.release();
    const released = await told(acquire(name, { within: lease }));
    const doomed = await acquire(name);
    indexedDB.deleteDatabase("tab-lease");
    await aborted(doomed.signal);
    const lost = [
      await told(acquire(name, { within: doomed })),
      await told(tryAcquire(name, { within: doomed })),
    ];
    return { refused: [...new Set(refused)], cancelled, released, lost };
  }, name);
  assert.deepEqual(seen, {
    refused: ["BAD_ARGUMENT"],
    cancelled: "mine",
    released: "LEASE_RELEASED",
    lost: ["LEASE_STORE_CLOSED", "LEASE_STORE_CLOSED"],
  });
});

test("the epoch is the same for all tabs, and another for a lock that was made anew", async () => {
  const name = fresh();
  const [one, two] = [await open(), await open()];
  const turn = (name) =>
    tabLease.withLease(name, async ({ epoch, token }) => ({
      epoch,
      token,
      safe: Number.isSafeInteger(epoch),
    }));
  const first = await one.evaluate(turn, name);
  const second = await two.evaluate(turn, name);
  assert.ok(first.safe && first.epoch > 0);
  assert.equal(second.epoch, first.epoch);
  assert.ok(second.token > first.token);
  await two.close();
  tabs.splice(tabs.indexOf(two), 1);
  const anew = await one.evaluate(async (name) => {
    const locks = tabLease.createLocks({ database: "another" });
    return (await locks.acquire(name)).epoch;
  }, name);
  assert.notEqual(anew, first.epoch);
});

test("an endless timeout is none", async () => {
  const name = fresh();
  const [holder, tab] = [await open(), await open()];
  await holder.evaluate(async (name) => void (window.lease = await tabLease.acquire(name)), name);
  const got = tab.evaluate(
    async (name) => (await tabLease.acquire(name, { timeout: Infinity })).token > 0,
    name,
  );
  await until("it waits", () => tab.evaluate(async (name) => (await waiting(name)) === 1, name));
  await holder.evaluate(() => lease.release());
  assert.ok(await got);
});

test("a page whose timers are lost: the deadline ends the call, and a late lease is given back", async () => {
  const name = fresh();
  const [holder, tab] = [await open(), await open()];
  await holder.evaluate(async (name) => void (window.lease = await tabLease.acquire(name)), name);
  const told = await tab.evaluate(async (name) => {
    await tabLease.withLease("warm", () => {});
    // Those of the wasm: it asks for none that is longer than the caller's deadline.
    const real = setTimeout;
    window.setTimeout = (run, ms) => (ms > 300 ? real(run, ms) : real(() => {}, 0));
    const told = await outcome(tabLease.acquire(name, { timeout: 300 }));
    // From now on it could keep what it gets.
    window.setTimeout = real;
    return told;
  }, name);
  assert.deepEqual([told.error?.name, told.error?.code], ["TimeoutError", "TIMEOUT"]);
  const back = await holder.evaluate(async (name) => {
    await lease.release();
    return outcome(tabLease.withLease(name, { timeout: 3_000 }, () => "back"));
  }, name);
  assert.deepEqual(back, { value: "back" });
});

/** The wasm fails, in the middle of what it was doing: a browser function does not answer as it should. */
const breakIt = () => {
  // Not a function that may fail: nothing of ours stands ready for that.
  const { now } = Date;
  Date.now = () => {
    Date.now = now;
    throw new Error("odd");
  };
  return outcome(tabLease.tryAcquire("whatever"));
};

test("once the wasm has failed nothing hangs: calls are rejected, and leases are lost", async () => {
  const [name, mine] = [fresh(), fresh()];
  const [holder, tab] = [await open(), await open()];
  await holder.evaluate(async (name) => void (window.lease = await tabLease.acquire(name)), name);
  await tab.evaluate(
    async ([name, mine]) => {
      window.lease = await tabLease.acquire(mine);
      window.other = await tabLease.acquire(mine, { scope: "tab" });
      window.derived = AbortSignal.any([lease.signal]);
      window.waits = outcome(tabLease.acquire(name));
      window.section = outcome(tabLease.withLease(mine, ({ signal }) => aborted(signal)));
      while ((await waiting(name)) === 0);
    },
    [name, mine],
  );
  const first = await tab.evaluate(breakIt);
  const seen = await tab.evaluate(async (name) => {
    const later = {
      acquire: outcome(tabLease.acquire(name)),
      tryAcquire: outcome(tabLease.tryAcquire(name)),
      withLease: outcome(tabLease.withLease(name, () => {})),
      query: outcome(tabLease.query()),
      others: outcome(tabLease.createLocks().acquire(name)),
      within: outcome(tabLease.acquire(lease.name, { within: lease })),
      waits,
    };
    for (const [what, ended] of Object.entries(later)) later[what] = (await ended).error;
    const { reason } = lease.signal;
    return {
      later,
      signals: [lease.signal.aborted, other.signal.aborted, derived.aborted],
      reason: [reason.name, reason.code, String(reason.cause)],
      section: (await section).error?.code,
      released: [await lease.release(), await lease.release(), await other.release()].length,
    };
  }, name);
  for (const error of [first.error, ...Object.values(seen.later)]) {
    assert.deepEqual([error?.name, error?.code], ["StoreError", "STORE_BROKEN"]);
    assert.match(error.message, /reload the page/);
    assert.equal(error.cause, first.error.cause);
  }
  assert.match(first.error.cause, /odd/);
  assert.deepEqual(seen.signals, [true, true, true]);
  assert.deepEqual(seen.reason, ["LeaseLostError", "LEASE_BROKEN", first.error.cause]);
  assert.equal(seen.section, "LEASE_BROKEN");
  assert.equal(seen.released, 3);
  // Others go on: its lease runs out.
  await getsIt(holder, mine);
});

test("a transaction that is fenced when the wasm fails is aborted: nobody would check it", async () => {
  const tab = await open();
  const seen = await tab.evaluate(
    async ([database, name]) => {
      const db = await new Promise((resolve) => {
        const request = indexedDB.open(database);
        request.onupgradeneeded = () => {
          request.result.createObjectStore("notes");
          tabLease.addLeaseStore(request.result);
        };
        request.onsuccess = () => resolve(request.result);
      });
      const locks = tabLease.createLocks({ database: db });
      const lease = await locks.acquire(name);
      const tx = db.transaction(["notes", tabLease.LEASE_STORE], "readwrite");
      const over = new Promise((resolve) => {
        tx.oncomplete = tx.onabort = ({ type }) => resolve(type);
      });
      const checked = outcome(lease.fence(tx));
      tx.objectStore("notes").put("text", "key");
      // Fails before the check's answer comes: the connection is open.
      // Not a function that may fail: nothing of ours stands ready for that.
      const { now } = Date;
      Date.now = () => {
        Date.now = now;
        throw new Error("odd");
      };
      await outcome(locks.tryAcquire("whatever"));
      const [ended, told] = [await over, await checked];
      const notes = db.transaction("notes").objectStore("notes").count();
      const count = await new Promise((resolve) => (notes.onsuccess = () => resolve(notes.result)));
      return { ended, told: told.error?.code, count };
    },
    [fresh(), fresh()],
  );
  assert.deepEqual(seen, { ended: "abort", told: "LEASE_BROKEN", count: 0 });
});

test("fake timers, that never fire: a free lock is taken, shared and released", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (name) => {
    // As Jest's, which fake `queueMicrotask` as well.
    const fakes = [
      "setTimeout",
      "setInterval",
      "requestAnimationFrame",
      "requestIdleCallback",
      "queueMicrotask",
    ];
    for (const fake of fakes) window[fake] = () => 1;
    window.performance = { ...performance, now: () => 0 };
    Date.now = () => 0;
    const lease = await tabLease.acquire(name);
    const again = await tabLease.tryAcquire(name, { signal: new AbortController().signal });
    await Promise.all([lease.release(), again.release()]);
    const apart = await tabLease.withLease(name, { scope: "request", timeout: 1_000 }, () => "apart");
    return [again.token === lease.token, apart, await tabLease.withLease(name, () => "shared")];
  }, fresh());
  assert.deepEqual(seen, [true, "apart", "shared"]);
});

test("a prerendered page asks for nothing until it is opened, and its deadlines run from then", async () => {
  const name = fresh();
  const [hidden, shown] = [await open(), await open()];
  await hidden.evaluate((name) => {
    let prerendering = true;
    Object.defineProperty(document, "prerendering", { get: () => prerendering });
    window.activate = () => {
      prerendering = false;
      document.dispatchEvent(new Event("prerenderingchange"));
    };
    const controller = new AbortController();
    window.cancel = () => controller.abort(new Error("never mind"));
    window.got = outcome(
      tabLease.acquire(name, { timeout: 5_000 }).then((lease) => (window.lease = lease).token),
    );
    window.inTime = outcome(tabLease.acquire(name, { timeout: 250 }));
    window.cancelled = outcome(tabLease.acquire(name, { signal: controller.signal }));
  }, name);
  const meanwhile = await hidden.evaluate(async (name) => {
    const tried = await tabLease.tryAcquire(name);
    const once = await outcome(tabLease.acquire(name, { timeout: 0 }));
    cancel();
    // Longer than `inTime` would wait.
    await new Promise((resolve) => setTimeout(resolve, 300));
    const { held, pending } = await tabLease.query();
    return {
      tried,
      once: once.error?.code,
      cancelled: (await cancelled).error?.message,
      known: held.concat(pending).filter((lock) => lock.name === name),
    };
  }, name);
  assert.deepEqual(meanwhile, { tried: null, once: "TIMEOUT", cancelled: "never mind", known: [] });
  assert.ok(
    await shown.evaluate(async (name) => (await tabLease.withLease(name, ({ token }) => token)) > 0, name),
  );
  const opened = await hidden.evaluate(async () => {
    activate();
    return [await got, await inTime].map(({ value, error }) => (value ? "got" : error.code));
  });
  assert.deepEqual(opened, ["got", "got"]);
  assert.equal(await shown.evaluate((name) => tabLease.tryAcquire(name), name), null);
});
