// G2: writes that a stale tab cannot make. An app's own database with leases in it, in real tabs: raw
// IndexedDB, idb and Dexie.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, until } from "./engine.mjs";

const PAGE = "/tests/browser/fence_page.html";
const WRAPPERS = ["raw", "idb", "Dexie"];

let browser;
const tabs = [];

before(async () => (browser = await launch()));
after(() => browser.close());
afterEach(async () => {
  for (const tab of tabs.splice(0)) {
    assert.deepEqual(await tab.evaluate(() => unhandled), [], "no rejection is left unhandled");
    await tab.close();
  }
});

let names = 0;
/** A database name that no other test uses. */
const fresh = () => `fence ${++names}`;

/** A tab with the app's database open as `db`, and locks on it as `locks`. They beat seldom. */
async function open(database, wrapper = "raw", settings = { leaseMs: 5_000, heartbeatMs: 4_500 }) {
  const tab = await browser.open(PAGE);
  tabs.push(tab);
  await tab.evaluate(
    async ([database, wrapper, settings]) => {
      window.app = wrappers[wrapper];
      window.db = await app.open(database);
      window.locks = tabLease.createLocks({ database: db, ...settings });
    },
    [database, wrapper, settings],
  );
  return tab;
}

const acquire = (tab) => tab.evaluate(async () => (window.lease = await locks.acquire("notes")).token);

/** Takes the lease from its holder, which learns of that with its next beat. `heir`: the tab that gets it. */
async function supersede(database, heir) {
  const tab = heir ?? tabs[0];
  await tab.evaluate(async (database) => {
    const db = await openRaw(database).catch(() => idb.openDB(database).then((db) => idb.unwrap(db)));
    await result(db.transaction("leases", "readwrite").objectStore("leases").delete("notes"));
    db.close();
  }, database);
  if (heir) await acquire(heir);
}

for (const wrapper of WRAPPERS) {
  test(`${wrapper}: what a holder writes is committed, what a stale one writes is not`, async () => {
    const database = fresh();
    const [a, b] = [await open(database, wrapper), await open(database, wrapper)];
    const write = (tab, key, value) =>
      tab.evaluate(([key, value]) => outcome(app.write(db, lease, key, value)), [key, value]);
    const token = await acquire(a);
    assert.deepEqual((await write(a, "text", "first")).error ?? undefined, undefined);
    await supersede(database, b);
    assert.deepEqual((await write(b, "text", "second")).error ?? undefined, undefined);

    const { error } = await write(a, "text", "stale");
    assert.deepEqual(
      { ...error, message: "" },
      { name: "LeaseLostError", code: "LEASE_SUPERSEDED", token, message: "" },
    );
    assert.equal(await b.evaluate(() => app.read(db, "text")), "second");
    const reason = await a.evaluate(() => lease.signal.aborted && lease.signal.reason.code);
    assert.equal(reason, "LEASE_SUPERSEDED", "the signal aborts with it");
    const again = await write(a, "text", "stale");
    assert.equal(again.error.name, "LeaseLostError", "at once, from then on");
    await a.evaluate(() => lease.release());
    assert.deepEqual((await write(b, "text", "third")).error, undefined, "the heir still holds");
  });
}

test("commit() in haste commits nothing before the check, and something after it", async () => {
  const database = fresh();
  const tab = await open(database);
  await acquire(tab);
  const hurry = () =>
    tab.evaluate(async () => {
      const ends = [];
      // At once; and from the answer to the first request, in a transaction that was fenced twice.
      for (const late of [false, true]) {
        const tx = db.transaction(["notes", "leases"], "readwrite");
        const over = ended(tx);
        const checks = [lease.fence(tx), late && lease.fence(tx)];
        const request = tx.objectStore("notes").put("hasty", `in haste ${late}`);
        if (late) request.onsuccess = () => tx.commit();
        else tx.commit();
        ends.push([await over, await outcome(Promise.all(checks)), await app.read(db, `in haste ${late}`)]);
        await result(db.transaction("notes", "readwrite").objectStore("notes").clear());
        if (lease.signal.aborted) break;
      }
      return ends;
    });
  for (const [end, , value] of await hurry()) assert.deepEqual([end, value], ["committed", "hasty"]);
  await supersede(database);
  // Without the fence's own `commit`, the answer would come too late to abort anything.
  const bypassed = await tab.evaluate(async () => {
    const others = tabLease.createLocks({ database: db });
    const other = await others.acquire("bypassed");
    await result(db.transaction("leases", "readwrite").objectStore("leases").delete("bypassed"));
    const hasty = db.transaction(["notes", "leases"], "readwrite");
    const hastily = ended(hasty);
    const checked = other.fence(hasty);
    hasty.objectStore("notes").put("stale", "bypassed");
    IDBTransaction.prototype.commit.call(hasty);
    return [await hastily, (await outcome(checked)).error?.name];
  });
  assert.deepEqual(bypassed, ["committed", "LeaseLostError"]);
  const [[end, checked, value]] = await hurry();
  assert.deepEqual([end, checked.error.name, value ?? undefined], ["aborted", "LeaseLostError", undefined]);
});

test("a lease that began by a message is fenced before the store knows of it", async () => {
  const database = fresh();
  // They beat every second: nothing but messages hands over.
  const pair = await Promise.all(
    [0, 1].map(() => open(database, "raw", { leaseMs: 2_000, heartbeatMs: 1_000 })),
  );
  const counts = await Promise.all(
    pair.map((tab) =>
      tab.evaluate(async () => {
        // What the fences write, which are the only ones to write there in a transaction with notes.
        let claims = 0;
        const { put } = IDBObjectStore.prototype;
        IDBObjectStore.prototype.put = function (...args) {
          if (this.name === "leases" && this.transaction.objectStoreNames.contains("notes")) claims++;
          return put.apply(this, args);
        };
        for (let n = 0; n < 30; n++) {
          const lease = await locks.acquire("notes");
          // In the very task in which it was had.
          const tx = db.transaction(["notes", "leases"], "readwrite");
          const over = ended(tx);
          const checked = lease.fence(tx);
          const notes = tx.objectStore("notes");
          notes.get("count").onsuccess = ({ target }) => notes.put((target.result ?? 0) + 1, "count");
          await checked;
          if ((await over) !== "committed") throw new Error("aborted");
          // Until then it has heard that the other one waits, and hands over by a message.
          await new Promise((resolve) => setTimeout(resolve, 20));
          await lease.release();
        }
        return claims;
      }),
    ),
  );
  // How many it is depends on how fast an engine's messages are.
  const chromium = await pair[0].evaluate(() => navigator.userAgent.includes("Chrome"));
  if (chromium) assert.ok(counts[0] + counts[1] > 5, `${counts} leases were claimed by a fence`);
  assert.equal(await pair[0].evaluate(() => app.read(db, "count")), 60);
});

test("an unfit transaction is refused before anything is queued", async () => {
  const database = fresh();
  const tab = await open(database);
  await acquire(tab);
  const errors = await tab.evaluate(async (database) => {
    const own = await tabLease.acquire("notes");
    const other = await openRaw(`${database}, another`);
    const finished = db.transaction(["notes", "leases"], "readwrite");
    finished.abort();
    const inactive = db.transaction(["notes", "leases"], "readwrite");
    inactive.objectStore("notes").count();
    const inactivated = new Promise((resolve) =>
      setTimeout(() => resolve(thrown(() => lease.fence(inactive)))),
    );
    const fence = (lease, tx) => {
      const error = thrown(() => lease.fence(tx));
      try {
        tx.abort();
      } catch {}
      return error;
    };
    const errors = {
      nothing: thrown(() => lease.fence(undefined)),
      somethingElse: thrown(() => lease.fence({ mode: "readwrite" })),
      scope: fence(lease, db.transaction("notes", "readwrite")),
      readonly: fence(lease, db.transaction(["notes", "leases"])),
      foreign: fence(lease, other.transaction(["notes", "leases"], "readwrite")),
      ownDatabase: fence(own, db.transaction(["notes", "leases"], "readwrite")),
      finished: thrown(() => lease.fence(finished)),
      inactive: await inactivated,
      ownTransaction: (await outcome(own.transaction("notes", "readwrite", () => {}))).error,
      mode: (await outcome(lease.transaction("notes", "readwrite!", () => {}))).error,
      callback: (await outcome(lease.transaction("notes", "readwrite"))).error,
      lateUpgrade: thrown(() =>
        tabLease.addLeaseStore({
          __proto__: db,
          objectStoreNames: { contains: () => false },
          createObjectStore: () => db.createObjectStore("x"),
        }),
      ),
      noStore: thrown(() => tabLease.createLocks({ database: counters })),
      noDatabase: thrown(() => tabLease.createLocks({ database: 7 })),
      closedDexie: thrown(() => tabLease.createLocks({ database: { backendDB: () => null } })),
    };
    async function bare() {
      const request = indexedDB.open(`${database}, bare`, 1);
      request.onupgradeneeded = () => request.result.createObjectStore("notes");
      return result(request);
    }
    errors.noStore = await bare().then((db) => thrown(() => tabLease.createLocks({ database: db })));
    await own.release();
    return errors;
  }, database);
  for (const [what, error] of Object.entries(errors)) {
    assert.deepEqual(
      [error?.name, error?.code],
      ["TypeError", "BAD_ARGUMENT"],
      `${what}: ${JSON.stringify(error)}`,
    );
  }
  assert.match(errors.scope.message, /lease store is not in its scope/);
  assert.match(errors.readonly.message, /not a readwrite transaction/);
  assert.match(errors.foreign.message, /another database/);
  assert.match(errors.noStore.message, /addLeaseStore/);
});

test("a lease that is over fences nothing", async () => {
  const tab = await open(fresh());
  await acquire(tab);
  const over = await tab.evaluate(async () => {
    await lease.release();
    const tx = db.transaction(["notes", "leases"], "readwrite");
    const end = ended(tx);
    const errors = [
      thrown(() => lease.fence(tx)),
      (await outcome(lease.transaction("notes", "readonly", () => {}))).error,
    ];
    return { errors, end: await end };
  });
  for (const { name, code } of over.errors)
    assert.deepEqual([name, code], ["LeaseLostError", "LEASE_RELEASED"]);
  assert.equal(over.end, "committed", "the transaction is left as it was");
});

for (const wrapper of ["raw", "idb"]) {
  test(`${wrapper}: lease.transaction resolves after the commit, and undoes what fails`, async () => {
    const database = fresh();
    const tab = await open(database, wrapper);
    const token = await acquire(tab);
    const seen = await tab.evaluate(async () => {
      // Where a request is a promise already, it is that.
      const done = (request) => (request.then ? request : result(request));
      const seen = {};
      seen.value = await lease.transaction("notes", "readwrite", async (tx) => {
        const notes = tx.objectStore("notes");
        await done(notes.put(1, "count"));
        return (await done(notes.get("count"))) + 41;
      });
      seen.read = await lease.transaction(["notes"], "readonly", (tx) =>
        done(tx.objectStore("notes").get("count")),
      );
      seen.thrown = await outcome(
        lease.transaction("notes", "readwrite", async (tx) => {
          await done(tx.objectStore("notes").put(2, "count"));
          throw new Error("mine");
        }),
      );
      seen.aborted = await outcome(lease.transaction("notes", "readwrite", (tx) => tx.abort()));
      seen.refused = await outcome(lease.transaction("nothing", "readwrite", () => {}));
      seen.duplicate = await outcome(
        lease.transaction("notes", "readwrite", (tx) => done(tx.objectStore("notes").add(3, "count"))),
      );
      seen.count = await app.read(db, "count");
      seen.held = !lease.signal.aborted;
      return seen;
    });
    assert.equal(seen.value, 42);
    assert.equal(seen.read, 1);
    assert.equal(seen.thrown.error.message, "mine");
    assert.equal(seen.aborted.error.name, "AbortError");
    assert.equal(seen.refused.error.name, "NotFoundError");
    assert.equal(seen.duplicate.error.name, "ConstraintError");
    assert.equal(seen.count, 1);
    assert.ok(seen.held, "no failure of a transaction is a loss");

    await supersede(database);
    for (const mode of ["readwrite", "readonly"]) {
      const { error } = await tab.evaluate(async (mode) => {
        const calls = [];
        const end = await outcome(
          lease.transaction("notes", mode, async (tx) => {
            calls.push(mode);
            const request =
              mode === "readwrite"
                ? tx.objectStore("notes").put(3, "count")
                : tx.objectStore("notes").get("count");
            await (request.then ? request : result(request));
          }),
        );
        return { ...end, calls };
      }, mode);
      assert.deepEqual(
        { ...error, message: "" },
        { name: "LeaseLostError", code: "LEASE_SUPERSEDED", token, message: "" },
      );
    }
    assert.equal(await tab.evaluate(() => app.read(db, "count")), 1);
  });
}

test("the app's database stays the app's: its handlers, its closing", async () => {
  const database = fresh();
  const tab = await open(database);
  const seen = await tab.evaluate(async (database) => {
    const seen = {};
    const handlers = [db.onversionchange, db.onclose, db.onabort, db.onerror];
    seen.untouched = handlers.every((handler) => handler === null);
    const lease = await locks.acquire("notes");
    seen.held = (await locks.query()).held.map(
      ({ name, token }) => name === "notes" && token === lease.token,
    );
    await lease.release();
    // Another connection sees the same leases: one namespace.
    const again = tabLease.createLocks({ database });
    seen.shared = (await (await again.acquire("notes")).release(), "taken");
    db.close();
    seen.closed = await outcome(locks.acquire("closed"));
    seen.query = await outcome(locks.query());
    return seen;
  }, database);
  assert.ok(seen.untouched);
  assert.deepEqual(seen.held, [true]);
  assert.equal(seen.shared, "taken");
  for (const { error } of [seen.closed, seen.query])
    assert.deepEqual([error?.name, error?.code], ["StoreError", "STORE_CLOSED"]);
});

// ---- long ones -------------------------------------------------------------------------------

/** Keeps a fenced transaction busy for so long, from within the page. */
const busy = async ([ms, mode]) => {
  const signal = lease.signal;
  const begun = realNow();
  const end = await outcome(
    lease.transaction("notes", mode, async (tx) => {
      const notes = tx.objectStore("notes");
      while (realNow() - begun < ms) await result(notes.count());
      if (mode === "readwrite") await result(notes.put("long", "text"));
      return "through";
    }),
  );
  return { ...end, lost: signal.aborted && signal.reason.code };
};

for (const mode of ["readwrite", "readonly"]) {
  test(`a ${mode} transaction of four leases does not lose the lease, though another tab waits`, async () => {
    const database = fresh();
    const settings = { leaseMs: 500 };
    const [a, b] = [await open(database, "raw", settings), await open(database, "raw", settings)];
    const token = await acquire(a);
    const heirs = b.evaluate(async () => {
      window.lease = await locks.acquire("notes");
      return { token: lease.token, at: Date.now() };
    });
    await until("it waits", () => b.evaluate(async () => (await locks.query()).pending.length === 1));
    assert.deepEqual(await a.evaluate(busy, [2_000, mode]), { value: "through", lost: false });
    // It goes on holding, and then hands over as ever.
    const { released, lost } = await a.evaluate(async () => {
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      const lost = lease.signal.aborted && lease.signal.reason.code;
      const released = Date.now();
      await lease.release();
      return { released, lost };
    });
    assert.equal(lost, false);
    const heir = await heirs;
    assert.ok(heir.at >= released - 1, "not before it was released");
    assert.ok(heir.token > token);
  });
}

test("a transaction that outlasts the store's time loses the lease, and that is told", async () => {
  const database = fresh();
  const [a, b] = [
    await open(database, "raw", { leaseMs: 300, storeTimeoutMs: 1_000 }),
    await open(database, "raw", { leaseMs: 300 }),
  ];
  await acquire(a);
  const heirs = b.evaluate(async () => (window.lease = await locks.acquire("notes")).token);
  await until("it waits", () => b.evaluate(async () => (await locks.query()).pending.length === 1));
  const long = a.evaluate(busy, [2_500, "readwrite"]);
  const told = await a.evaluate(async () => {
    const begun = realNow();
    await new Promise((resolve) => lease.signal.addEventListener("abort", resolve));
    return { after: realNow() - begun, code: lease.signal.reason.code };
  });
  assert.equal(told.code, "LEASE_STORE_FAILED");
  assert.ok(told.after > 700 && told.after < 2_000, `told after ${told.after} ms`);
  // The check had passed and nobody got in, so it is committed; the next one is not.
  assert.deepEqual(await long, { value: "through", lost: "LEASE_STORE_FAILED" });
  assert.equal((await a.evaluate(busy, [0, "readwrite"])).error.name, "LeaseLostError");
  assert.ok((await heirs) > 0);
});

