// Whose store it is, what becomes of connections that die, and what is told where there is no IndexedDB.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, testThat } from "./engine.mjs";

const PAGE = "/tests/browser/fence_page.html";

let browser;
const tabs = [];

before(async () => (browser = await launch()));
after(() => browser.close());
afterEach(async () => {
  for (const tab of tabs.splice(0)) {
    assert.deepEqual(await tab.evaluate(() => unhandled), [], "no rejection and no error is left unhandled");
    await tab.close();
  }
});

let names = 0;
/** A database name that no other test uses. */
const fresh = () => `store ${++names}`;

/** A tab with what these tests need beside the fence's page. */
async function open(from = browser, page = PAGE) {
  const tab = await from.open(page);
  tabs.push(tab);
  await tab.evaluate(() => {
    addEventListener("error", ({ message }) => unhandled.push(message));
    /** How calls ended: the name, the code and the cause's name of each error. */
    window.ends = (calls) =>
      Promise.all(
        calls.map((call) =>
          (async () => call())().then(
            () => "fine",
            (error) => `${error.name} ${error.code} ${error.cause?.name ?? "-"}`,
          ),
        ),
      );
    /** An app's database, made by `upgrade(db, tx)`. */
    window.openApp = (name, upgrade, version = 1) => {
      const request = indexedDB.open(name, version);
      request.onupgradeneeded = () => upgrade(request.result, request.transaction);
      return result(request);
    };
    /** A Dexie with two stores, and perhaps a row in that of the leases. */
    window.openDexie = async (name, schema, row) => {
      const dexie = new Dexie(name);
      dexie.version(1).stores({ notes: "", leases: schema });
      await dexie.open();
      if (row) await dexie.table("leases").put(...row);
      return dexie;
    };
    window.rows = async (db, store) => {
      const objects = db.transaction(store).objectStore(store);
      const [keys, values] = await Promise.all([result(objects.getAllKeys()), result(objects.getAll())]);
      return JSON.stringify([keys, values]);
    };
    window.until = async (what, ms = 15_000) => {
      const end = realNow() + ms;
      for (;;) {
        const found = await what();
        if (found) return found;
        if (realNow() > end) throw new Error(`not within ${ms} ms: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    };
  });
  return tab;
}

// ---- Whose store it is -----------------------------------------------------------------------

test("an app's own store of that name is refused before anything is touched", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const kinds = {
      "keys outside": undefined,
      "key path": { keyPath: "id" },
      generator: { autoIncrement: true },
    };
    const seen = {};
    for (const [kind, options] of Object.entries(kinds)) {
      for (const wrapper of ["raw", "idb"]) {
        let added;
        const name = `${database} ${kind} ${wrapper}`;
        const make = (db) => {
          const flats = db.createObjectStore("leases", options);
          if (options) flats.put({ id: 7, tenant: "x" });
          else flats.put({ tenant: "x" }, "flat 7");
          added = thrown(() => tabLease.addLeaseStore(db));
        };
        const db =
          wrapper === "raw" ? await openApp(name, make) : await idb.openDB(name, 1, { upgrade: make });
        const raw = wrapper === "raw" ? db : idb.unwrap(db);
        const before = await rows(raw, "leases");
        const given = thrown(() => tabLease.createLocks({ database: db }));
        const byName = tabLease.createLocks({ database: name });
        const named = await ends([
          () => byName.acquire("flat 7"),
          () => byName.acquire("flat 8"),
          () => byName.query(),
        ]);
        seen[`${kind}, ${wrapper}`] = {
          added: [
            added?.name,
            added?.code,
            /another.*name: "my_leases".*store: "my_leases"/s.test(added?.message),
          ],
          given: [given?.name, given?.code, given?.message === added?.message],
          named: [...new Set(named)],
          stores: [...raw.objectStoreNames],
          intact: before === (await rows(raw, "leases")),
        };
        db.close();
      }
    }
    return seen;
  }, fresh());
  assert.equal(Object.keys(seen).length, 6);
  for (const [kind, found] of Object.entries(seen)) {
    const expected = {
      added: ["TypeError", "BAD_ARGUMENT", true],
      given: ["TypeError", "BAD_ARGUMENT", true],
      named: ["StoreError STORE_FOREIGN -"],
      stores: ["leases"],
      intact: true,
    };
    assert.deepEqual(found, expected, kind);
  }
});

test("Dexie: a store is judged by its schema at once, by its content before the first write", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const seen = {};
    const keyed = await openDexie(`${database} keyed`, "++id", [{ tenant: "x" }]);
    seen.keyed = thrown(() => tabLease.createLocks({ database: keyed }));
    // A row like none of ours; bytes under a name; something else under a note's key.
    const strange = {
      object: [{ tenant: "x" }, "flat 7"],
      bytes: [new Uint8Array(9), "flat 7"],
      note: ["x", ["a", "b", 1]],
      number: [{}, 4],
    };
    for (const [kind, row] of Object.entries(strange)) {
      const dexie = await openDexie(`${database} ${kind}`, "", row);
      const raw = dexie.backendDB();
      const before = await rows(raw, "leases");
      const locks = tabLease.createLocks({ database: dexie });
      const calls = [
        () => locks.acquire("flat 7"),
        () => locks.tryAcquire("flat 8"),
        () => locks.withLease("flat 9", () => {}),
        () => locks.query(),
      ];
      seen[kind] = [...new Set(await ends(calls)), before === (await rows(raw, "leases"))];
      // Once they are gone, it is as good as any.
      await dexie.table("leases").clear();
      seen[kind].push(...(await ends([() => locks.withLease("flat 7", () => {})])));
      dexie.close();
    }
    return seen;
  }, fresh());
  assert.deepEqual([seen.keyed?.name, seen.keyed?.code], ["TypeError", "BAD_ARGUMENT"]);
  for (const kind of ["object", "bytes", "note", "number"]) {
    assert.deepEqual(seen[kind], ["TypeError BAD_ARGUMENT -", true, "fine"], kind);
  }
});

test("Dexie: a store of leases is known by its content, and by its mark", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const seen = {};
    // From another connection.
    const dexie = await openDexie(`${database} ours`, "");
    await (await tabLease.createLocks({ database: dexie }).acquire("inbox")).release();
    dexie.close();
    const again = await openDexie(`${database} ours`, "");
    const found = tabLease.createLocks({ database: again });
    seen.ours = await ends([() => found.withLease("inbox", () => {})]);
    again.close();
    // In a schema with the mark.
    const marked = await openDexie(`${database} marked`, tabLease.LEASE_SCHEMA);
    const locks = tabLease.createLocks({ database: marked });
    const lease = await locks.acquire("inbox");
    const put = () => marked.table("notes").put(1, "a");
    const fencedPut = (tx) => Promise.all([lease.fence(tx), put()]);
    seen.marked = await ends([
      () => marked.transaction("rw", "notes", "leases", async (tx) => void (await fencedPut(tx))),
      () => lease.transaction("notes", "readwrite", (tx) => tx.objectStore("notes").put(2, "b")),
    ]);
    await lease.release();
    // The mark is what a store of ours that was made by addLeaseStore has.
    seen.schema = await openApp(`${database}, by us`, (db) => tabLease.addLeaseStore(db)).then((db) => {
      const ours = db.transaction("leases").objectStore("leases");
      const theirs = marked.backendDB().transaction("leases").objectStore("leases");
      const of = (store) => [
        store.keyPath,
        store.autoIncrement,
        ...store.indexNames,
        store.index(store.indexNames[0]).keyPath,
      ];
      return JSON.stringify(of(ours)) === JSON.stringify(of(theirs));
    });
    return seen;
  }, fresh());
  assert.deepEqual([seen.ours, seen.marked, seen.schema], [["fine"], ["fine", "fine"], true]);
});

test("a database of ours that was made without the mark goes on", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const db = await openApp(database, (db) => db.createObjectStore("leases"));
    const locks = tabLease.createLocks({ database });
    const first = await locks.acquire("inbox");
    await first.release();
    const again = tabLease.createLocks({ database });
    const second = await again.acquire("inbox");
    // Given as it is, it may be an app's: that has addLeaseStore for it.
    const given = thrown(() => tabLease.createLocks({ database: db }));
    db.close();
    return { grows: second.token > first.token, given: given?.code };
  }, fresh());
  assert.deepEqual(seen, { grows: true, given: "BAD_ARGUMENT" });
});

test("an answer from a database that has been deleted since begins no lease", async () => {
  const tab = await open();
  const database = fresh();
  const seen = await tab.evaluate(async (database) => {
    const locks = tabLease.createLocks({ database });
    await (await locks.acquire("open")).release();
    // The next command is written, but its answer comes when the database is gone.
    const { set, ...rest } = Object.getOwnPropertyDescriptor(IDBTransaction.prototype, "oncomplete");
    let deleted;
    Object.defineProperty(IDBTransaction.prototype, "oncomplete", {
      ...rest,
      set(handler) {
        if (!handler || deleted) {
          set.call(this, handler);
          return;
        }
        set.call(this, (event) => {
          deleted = result(indexedDB.deleteDatabase(database));
          deleted.then(() => handler(event));
        });
      },
    });
    const lease = await locks.acquire("late");
    const { held } = await locks.query();
    return {
      deleted: Boolean(deleted),
      recorded: held.some(({ name, token }) => name === "late" && token === lease.token),
    };
  }, database);
  assert.deepEqual(seen, { deleted: true, recorded: true });
});

test("a database that is deleted while it is looked at goes at once, and is made anew", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const db = await openApp(database, (db) => db.createObjectStore("leases"));
    db.close();
    await tabLease.createLocks({ database }).withLease("inbox", () => {});
    const { getAllKeys } = IDBObjectStore.prototype;
    let deleted;
    IDBObjectStore.prototype.getAllKeys = function (...args) {
      IDBObjectStore.prototype.getAllKeys = getAllKeys;
      deleted = result(indexedDB.deleteDatabase(database)).then(() => "deleted");
      return getAllKeys.apply(this, args);
    };
    const locks = tabLease.createLocks({ database });
    const call = ends([() => locks.withLease("inbox", { timeout: 10_000 }, () => {})]);
    await until(() => deleted);
    const late = new Promise((resolve) => setTimeout(() => resolve("blocked"), 5_000));
    return [await Promise.race([deleted, late]), ...(await call)];
  }, fresh());
  assert.deepEqual(seen, ["deleted", "fine"]);
});

test("a lease store under a name of its own, beside the app's", async () => {
  const database = fresh();
  const [a, b] = [await open(), await open()];
  for (const tab of [a, b]) {
    await tab.evaluate(async (database) => {
      window.db = await openApp(database, (db) => {
        db.createObjectStore("leases").put({ tenant: "x" }, "flat 7");
        db.createObjectStore("notes");
        for (const name of ["my_leases", "my_leases", "others"]) tabLease.addLeaseStore(db, { name });
      });
      db.onversionchange = () => db.close();
      window.mine = tabLease.createLocks({ database: db, store: "my_leases" });
      window.others = tabLease.createLocks({ database: db, store: "others" });
    }, database);
  }
  await a.evaluate(async () => (window.lease = await mine.acquire("flat 7")));
  const seen = await a.evaluate(async (database) => {
    const byName = tabLease.createLocks({ database, store: "my_leases" });
    const write = (stores, value) => {
      const tx = db.transaction(stores, "readwrite");
      const checked = lease.fence(tx);
      tx.objectStore("notes").put(value, value);
      return checked;
    };
    return {
      transaction: await outcome(
        lease.transaction("notes", "readwrite", (tx) => [...tx.objectStoreNames].join()),
      ),
      iterable: await outcome(
        lease.transaction(new Set(["notes"]), "readonly", (tx) => [...tx.objectStoreNames].join()),
      ),
      fenced: await outcome(write(["notes", "my_leases"], 1)),
      another: thrown(() => write(["notes", "others"], 2)),
      byName: (await byName.query()).held.map(({ name }) => name),
      apart: (await others.query()).held.length,
    };
  }, database);
  assert.equal(seen.transaction.value, "my_leases,notes");
  assert.equal(seen.iterable.value, "my_leases,notes");
  assert.equal(seen.fenced.error, undefined);
  assert.deepEqual([seen.another.name, seen.another.code], ["TypeError", "BAD_ARGUMENT"]);
  assert.deepEqual([seen.byName, seen.apart], [["flat 7"], 0]);
  // Locks of one name in two stores have nothing to do with each other, nor have their messages.
  const tokens = await b.evaluate(async () => {
    const tokens = [];
    for (let n = 0; n < 5; n++) await others.withLease("flat 7", ({ token }) => tokens.push(token));
    return { tokens, waits: await mine.tryAcquire("flat 7") };
  });
  assert.equal(tokens.waits, null);
  const waiting = b.evaluate(async () => (await mine.acquire("flat 7", { timeout: 10_000 })).token);
  await a.waitForFunction(async () => (await mine.query()).pending.length === 1);
  assert.equal(await a.evaluate(() => lease.signal.aborted), false);
  await a.evaluate(() => lease.release());
  assert.ok((await waiting) > 0);
  assert.equal(await a.evaluate(() => rows(db, "leases")), '[["flat 7"],[{"tenant":"x"}]]');
});

test("addLeaseStore and its options: what is there, what is too late, and what is misspelt", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const seen = {};
    (await openApp(database, (db) => tabLease.addLeaseStore(db))).close();
    const db = await openApp(
      database,
      (db, tx) => {
        const { onabort, onerror } = tx;
        tabLease.addLeaseStore(db);
        tabLease.addLeaseStore(db, {});
        tabLease.addLeaseStore(db, { name: undefined });
        seen.stores = [...db.objectStoreNames];
        seen.handlers = tx.onabort === onabort && tx.onerror === onerror;
        for (const [what, options] of Object.entries({
          misspelt: { nmae: "x" },
          empty: { name: "" },
          number: { name: 7 },
          text: "x",
        })) {
          seen[what] = thrown(() => tabLease.addLeaseStore(db, options));
        }
      },
      2,
    );
    seen.version = db.version;
    seen.late = thrown(() => tabLease.addLeaseStore(db));
    seen.lateOther = thrown(() => tabLease.addLeaseStore(db, { name: "other" }));
    for (const [what, settings] of Object.entries({
      misspeltSetting: { database: db, stroe: "leases" },
      emptySetting: { database: db, store: "" },
      numberSetting: { store: 7 },
      missing: { database: db, store: "other" },
    })) {
      seen[what] = thrown(() => tabLease.createLocks(settings));
    }
    seen.works = await ends([() => tabLease.createLocks({ database: db }).withLease("a", () => {})]);
    return seen;
  }, fresh());
  const { stores, handlers, version, works, ...errors } = seen;
  assert.deepEqual([stores, handlers, version, works], [["leases"], true, 2, ["fine"]]);
  for (const [what, error] of Object.entries(errors))
    assert.deepEqual([error?.name, error?.code], ["TypeError", "BAD_ARGUMENT"], what);
  assert.match(errors.missing.message, /addLeaseStore\(db, \{ name: "other" \}\)/);
});

test("a connection that is being upgraded is looked at by the first call", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const made = {};
    const upgrade = (what, make) =>
      openApp(`${database} ${what}`, (db) => {
        make(db);
        made[what] = tabLease.createLocks({ database: db });
      });
    await upgrade("ours", (db) => tabLease.addLeaseStore(db));
    const db = await upgrade("theirs", (db) => db.createObjectStore("leases").put({ tenant: "x" }, "flat 7"));
    const end = await ends([() => made.ours.withLease("a", () => {}), () => made.theirs.acquire("a")]);
    return [...end, await rows(db, "leases")];
  }, fresh());
  assert.deepEqual(seen, ["fine", "TypeError BAD_ARGUMENT -", '[["flat 7"],[{"tenant":"x"}]]']);
});

test("each lease store has a channel of its own", async () => {
  const tab = await open();
  const channels = await tab.evaluate(async (database) => {
    const channels = [];
    const { BroadcastChannel } = window;
    window.BroadcastChannel = function (name) {
      channels.push(name);
      return new BroadcastChannel(name);
    };
    for (const settings of [{}, { store: "one" }, { store: "other" }]) {
      const name = settings.store ? `${database} ${settings.store}` : database;
      const db = await openApp(name, (db) =>
        ["leases", "one", "other"].forEach((name) => tabLease.addLeaseStore(db, { name })),
      );
      await tabLease.createLocks({ database: db, ...settings }).withLease("x", () => {});
      await tabLease.createLocks({ database: name, ...settings }).withLease("x", () => {});
      db.close();
    }
    window.BroadcastChannel = BroadcastChannel;
    return channels.map((channel) => channel.replaceAll(database, "app"));
  }, fresh());
  assert.deepEqual(channels, [
    ...["tab-lease:app", "tab-lease:app"],
    ...["tab-lease/one\0app one", "tab-lease/one\0app one"],
    ...["tab-lease/other\0app other", "tab-lease/other\0app other"],
  ]);
});

// ---- Where there is no IndexedDB -------------------------------------------------------------

const UNAVAILABLE = [
  ...[
    "UnknownError",
    "InvalidStateError",
    "SecurityError",
    "NotAllowedError",
    "NotFoundError",
    "TimeoutError",
  ],
  ...["OperationError", "DataError", "ReadOnlyError", "NotReadableError", "TypeError"],
];
const FAILED = ["QuotaExceededError", "VersionError", "AbortError", "ConstraintError"];

/** How five calls end while every opening fails so, how often they open, and how the next one ends. */
async function fails(tab, how, name, times) {
  return tab.evaluate(
    async ([how, name, times, database]) => {
      const { open } = IDBFactory.prototype;
      let opened = 0;
      IDBFactory.prototype.open = function (...args) {
        if (opened++ >= times) return open.apply(this, args);
        const error = name === "TypeError" ? new TypeError("no") : new DOMException("no", name);
        if (how === "thrown") throw error;
        const request = { readyState: "pending", error: null, result: undefined, transaction: null };
        setTimeout(() => {
          Object.assign(request, { readyState: "done", error });
          request.onerror?.(new Event("error"));
        });
        return request;
      };
      const locks = tabLease.createLocks({ database });
      const begun = realNow();
      const calls = [
        () => locks.acquire("x", { timeout: 5_000 }),
        () => locks.acquire("x"),
        () => locks.tryAcquire("x"),
        () => locks.withLease("x", () => {}),
        () => locks.query(),
      ];
      const kinds = [];
      if (times === 1) kinds.push(...(await ends([() => locks.withLease("x", () => {})])));
      else for (const call of calls) kinds.push(...(await ends([call])));
      const ms = realNow() - begun;
      IDBFactory.prototype.open = open;
      return {
        kinds: [...new Set(kinds)],
        opened,
        ms,
        next: await ends([() => locks.withLease("x", () => {})]),
      };
    },
    [how, name, times, fresh()],
  );
}

for (const how of ["thrown", "told by an event"]) {
  test(`open's failures, ${how}: each code, its cause, and the next call tries again`, async () => {
    const tab = await open();
    for (const name of [...UNAVAILABLE, ...FAILED]) {
      const code = how === "thrown" || UNAVAILABLE.includes(name) ? "STORE_UNAVAILABLE" : "STORE_FAILED";
      const { kinds, opened, ms, next } = await fails(tab, how, name, 1_000);
      assert.deepEqual(kinds, [`StoreError ${code} ${name}`]);
      // Two for each call, and two more for each of the four to say that its request has ended.
      assert.ok(opened <= 18, `${name}: ${opened} openings for five calls`);
      assert.ok(ms < 2_000, `${name}: ${ms} ms`);
      assert.deepEqual(next, ["fine"], `after ${name}`);
      const passing = await fails(tab, how, name, 1);
      assert.deepEqual(
        [passing.kinds, passing.opened, passing.next],
        [["fine"], 2, ["fine"]],
        `${name}, once`,
      );
    }
  });
}

test("no IndexedDB at all: missing, null, something else, or an access that throws", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const real = indexedDB;
    const ways = {
      missing: { value: undefined },
      null: { value: null },
      empty: { value: {} },
      throws: {
        get() {
          throw new DOMException("no", "SecurityError");
        },
      },
    };
    const seen = {};
    for (const [way, property] of Object.entries(ways)) {
      Object.defineProperty(window, "indexedDB", { configurable: true, ...property });
      const locks = tabLease.createLocks({ database: `${database} ${way}` });
      const kinds = await ends([() => locks.acquire("x"), () => locks.tryAcquire("x"), () => locks.query()]);
      Object.defineProperty(window, "indexedDB", { configurable: true, value: real });
      seen[way] = [...new Set(kinds), ...(await ends([() => locks.withLease("x", () => {})]))];
    }
    return seen;
  }, fresh());
  for (const [way, cause] of Object.entries({
    missing: "Error",
    null: "Error",
    empty: "TypeError",
    throws: "SecurityError",
  })) {
    assert.deepEqual(seen[way], [`StoreError STORE_UNAVAILABLE ${cause}`, "fine"], way);
  }
});

test("an upgrade that cannot make the store: its cause, and no error of the page's", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const { createObjectStore } = IDBDatabase.prototype;
    IDBDatabase.prototype.createObjectStore = () => {
      throw new DOMException("the disk is full", "QuotaExceededError");
    };
    const locks = tabLease.createLocks({ database });
    const kinds = await ends([() => locks.acquire("x")]);
    IDBDatabase.prototype.createObjectStore = createObjectStore;
    return [...kinds, ...(await ends([() => locks.withLease("x", () => {})]))];
  }, fresh());
  assert.deepEqual(seen, ["StoreError STORE_FAILED QuotaExceededError", "fine"]);
});

testThat("site data blocked by the user: every call says so, quickly", "blockSiteData", async () => {
  const blocked = await launch({ siteDataBlocked: true });
  try {
    const tab = await open(blocked, "/tests/browser/bare_page.html");
    const seen = await tab.evaluate(async () => {
      const works = await new Promise((resolve) => {
        try {
          const request = indexedDB.open("probe");
          request.onsuccess = () => resolve(true);
          request.onerror = () => resolve(false);
        } catch {
          resolve(false);
        }
      });
      const begun = performance.now();
      const { acquire, tryAcquire, withLease, query } = tabLease;
      const calls = [
        () => acquire("x", { timeout: 5_000 }),
        () => acquire("x"),
        () => tryAcquire("x"),
        () => withLease("x", () => {}),
        () => query(),
      ];
      const kinds = [...(await ends(calls)), ...(await ends(calls))];
      const ms = performance.now() - begun;
      return {
        works,
        kinds: [...new Set(kinds.map((kind) => kind.split(" ").slice(0, 2).join(" ")))],
        caused: !kinds.some((kind) => kind.endsWith(" -")),
        ms,
      };
    });
    assert.deepEqual([seen.works, seen.kinds, seen.caused], [false, ["StoreError STORE_UNAVAILABLE"], true]);
    assert.ok(seen.ms < 2_000, `${seen.ms} ms`);
    assert.deepEqual(await tab.evaluate(() => unhandled), []);
  } finally {
    tabs.length = 0;
    await blocked.close();
  }
});

// ---- Connections that die --------------------------------------------------------------------

const LEASE_MS = 1_500;

/** A tab with a lease, and our connections in the order of their opening. */
async function holder(leaseMs = LEASE_MS, database = fresh()) {
  const tab = await open();
  await tab.evaluate(
    async ([database, leaseMs]) => {
      window.connections = [];
      const { open } = IDBFactory.prototype;
      window.opening = () => undefined;
      IDBFactory.prototype.open = function (...args) {
        const instead = args[0] === database && opening();
        if (instead) return instead;
        const request = open.apply(this, args);
        if (args[0] === database) request.addEventListener("success", () => connections.push(request.result));
        return request;
      };
      /** An opening that fails by an event, as an opening does whose server is lost. */
      window.lostServer = () => {
        const error = new DOMException(
          "Connection to Indexed Database server lost. Refresh the page to try again",
          "UnknownError",
        );
        const request = { readyState: "pending", error: null, result: undefined, transaction: null };
        setTimeout(() => {
          Object.assign(request, { readyState: "done", error });
          request.onerror?.(new Event("error"));
        });
        return request;
      };
      window.database = database;
      window.locks = tabLease.createLocks({ database, leaseMs, storeTimeoutMs: 3_000 });
      window.lease = await locks.acquire("x");
      window.reason = undefined;
      lease.signal.addEventListener("abort", () => (reason = lease.signal.reason.code));
    },
    [database, leaseMs],
  );
  return tab;
}

/** Another tab waits, so that the lease is short and renewed often. */
async function waits(database) {
  const tab = await open();
  await tab.evaluate(async (database) => {
    window.locks = tabLease.createLocks({ database });
    window.got = locks.acquire("x", { timeout: 30_000 }).then(({ token }) => token);
    await until(async () => (await locks.query()).pending.length === 1);
  }, database);
  return tab;
}

const SEVERED = {
  "transaction() throws InvalidStateError": () => connections.at(-1).close(),
  "a close event": () => {
    connections.at(-1).close();
    connections.at(-1).dispatchEvent(new Event("close"));
  },
  "a request fails with UnknownError, and the next opening too": () => {
    let failures = 1;
    const { get } = IDBObjectStore.prototype;
    IDBObjectStore.prototype.get = function (...args) {
      if (failures === 0 || this.transaction.db.name !== database) return get.apply(this, args);
      failures--;
      opening = () => {
        opening = () => undefined;
        return lostServer();
      };
      return lostServer();
    };
  },
  "a transaction aborts by itself": () => {
    let aborts = 1;
    const { put } = IDBObjectStore.prototype;
    IDBObjectStore.prototype.put = function (...args) {
      const request = put.apply(this, args);
      if (aborts > 0 && this.transaction.db.name === database) {
        aborts--;
        this.transaction.abort();
      }
      return request;
    };
  },
  "the opening works at the second try": () => {
    let failures = 1;
    opening = () => (failures-- > 0 ? lostServer() : undefined);
    connections.at(-1).close();
    connections.at(-1).dispatchEvent(new Event("close"));
  },
};

for (const [what, sever] of Object.entries(SEVERED)) {
  for (const waited of [false, true]) {
    test(`severed: ${what}${waited ? ", waited for" : ""}: the lease goes on`, async () => {
      const database = fresh();
      const tab = await holder(LEASE_MS, database);
      const other = waited && (await waits(database));
      await tab.evaluate(sever);
      const seen = await tab.evaluate(async (leaseMs) => {
        const since = realNow();
        const again = await locks.acquire("y", { timeout: 5_000 });
        // Longer than a lease that is not renewed lasts.
        await until(() => reason || realNow() - since > 2 * leaseMs);
        const held = (await locks.query()).held.find(({ name }) => name === "x")?.token === lease.token;
        await again.release();
        return { reason, held, connections: connections.length };
      }, LEASE_MS);
      assert.equal(seen.reason, undefined);
      assert.equal(seen.held, true);
      assert.ok(seen.connections > 1, "it was opened again");
      assert.ok(seen.connections < 6, `${seen.connections} connections`);
      await tab.evaluate(() => lease.release());
      if (other) assert.ok((await other.evaluate(() => got)) > 0);
    });
  }
}

test("severed, and the database is another one: the lease ends, and the next is dirty", async () => {
  const tab = await holder();
  const seen = await tab.evaluate(async () => {
    const db = await result(indexedDB.open(database));
    await result(db.transaction("leases", "readwrite").objectStore("leases").clear());
    connections[0].close();
    connections[0].dispatchEvent(new Event("close"));
    const begun = realNow();
    await until(() => reason);
    const ms = realNow() - begun;
    const next = await locks.acquire("x", { timeout: 5_000 });
    return { reason, ms, grows: next.token > lease.token, dirty: next.dirty };
  });
  assert.deepEqual({ ...seen, ms: 0 }, { reason: "LEASE_STORE_CLOSED", ms: 0, grows: true, dirty: true });
  assert.ok(seen.ms < LEASE_MS / 2, `told after ${seen.ms} ms`);
});

for (const close of [false, true]) {
  const how = close ? "by a close event" : "silently";
  test(`severed ${how} for too long: LEASE_STORE_FAILED, and then all is well`, async () => {
    const database = fresh();
    const tab = await holder(LEASE_MS, database);
    const other = await waits(database);
    const seen = await tab.evaluate(async (close) => {
      opening = lostServer;
      connections[0].close();
      if (close) connections[0].dispatchEvent(new Event("close"));
      const refused = await ends([() => locks.acquire("y", { timeout: 5_000 }), () => locks.query()]);
      await until(() => reason);
      opening = () => undefined;
      return { reason, refused };
    }, close);
    assert.equal(seen.reason, "LEASE_STORE_FAILED");
    assert.deepEqual(seen.refused, Array(2).fill("StoreError STORE_UNAVAILABLE UnknownError"));
    assert.ok((await other.evaluate(() => got)) > 0);
    assert.deepEqual(
      await tab.evaluate(() => ends([() => locks.withLease("y", { timeout: 5_000 }, () => {})])),
      ["fine"],
    );
  });
}

test("a connection or an opening that never answers is given up with the call that found it", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async (database) => {
    const locks = tabLease.createLocks({ database, storeTimeoutMs: 300 });
    const { open } = IDBFactory.prototype;
    const { get } = IDBObjectStore.prototype;
    const mute = { readyState: "pending", error: null, result: undefined };
    let dead;
    IDBFactory.prototype.open = () => mute;
    const opening = await ends([() => locks.acquire("x")]);
    IDBFactory.prototype.open = open;
    // What was asked for meanwhile is given up in its turn.
    const works = async (name) => (await ends([() => locks.withLease(name, () => {})]))[0] === "fine";
    const opened = await until(() => works("x"));
    IDBObjectStore.prototype.get = function (...args) {
      dead ??= this.transaction.db;
      return dead === this.transaction.db ? mute : get.apply(this, args);
    };
    const answering = await ends([() => locks.acquire("y")]);
    const answered = await until(() => works("y"));
    IDBObjectStore.prototype.get = get;
    return { opening, opened, answering, answered };
  }, fresh());
  assert.deepEqual(seen.opening, ["StoreError STORE_STALLED -"]);
  assert.equal(seen.opened, true);
  assert.deepEqual(seen.answering, ["StoreError STORE_STALLED -"]);
  assert.equal(seen.answered, true);
});
