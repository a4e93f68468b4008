// What the fence's tests evaluate in real tabs: an app's database with leases in it, reached in three
// ways (raw IndexedDB, idb, Dexie), and writes that come late.
import Dexie from "../../node_modules/dexie/dist/modern/dexie.mjs";
import * as idb from "../../node_modules/idb/build/index.js";
import * as tabLease from "../../js/index.js";

const { LEASE_STORE, addLeaseStore } = tabLease;

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** Resolves with how a transaction ended. */
const ended = (tx) =>
  new Promise((resolve) => {
    tx.addEventListener("complete", () => resolve("committed"));
    tx.addEventListener("abort", () => resolve("aborted"));
  });

/** The app's database, with a store `notes` (keys of its own) beside the leases. */
const openRaw = (name) => {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => {
    addLeaseStore(request.result);
    addLeaseStore(request.result); // twice is as good as once
    request.result.createObjectStore("notes");
  };
  return result(request);
};

/**
 * The same app in each of the wrappers: `open(name)` → what goes to createLocks, `write(db, lease, key,
 * value)` → resolves when a fenced write is committed, and rejects when it is not.
 */
const wrappers = {
  raw: {
    open: openRaw,
    async write(db, lease, key, value) {
      const tx = db.transaction(["notes", LEASE_STORE], "readwrite");
      const over = ended(tx);
      const checked = lease.fence(tx);
      tx.objectStore("notes").put(value, key);
      if ((await over) === "aborted")
        await checked.then(() => Promise.reject(new Error("aborted, but not by the fence")));
    },
    read: (db, key) => result(db.transaction("notes").objectStore("notes").get(key)),
    close: (db) => db.close(),
  },
  idb: {
    open: (name) =>
      idb.openDB(name, 1, {
        upgrade(db) {
          addLeaseStore(db);
          db.createObjectStore("notes");
        },
      }),
    async write(db, lease, key, value) {
      const tx = db.transaction(["notes", LEASE_STORE], "readwrite");
      await Promise.all([lease.fence(tx), tx.objectStore("notes").put(value, key), tx.done]);
    },
    read: (db, key) => db.get("notes", key),
    close: (db) => db.close(),
  },
  Dexie: {
    async open(name) {
      const db = new Dexie(name);
      db.version(1).stores({ notes: "", [LEASE_STORE]: "" });
      return db.open();
    },
    async write(db, lease, key, value) {
      await db.transaction("rw", db.table("notes"), db.table(LEASE_STORE), async (tx) => {
        await Promise.all([lease.fence(tx), db.table("notes").put(value, key)]);
      });
    },
    read: (db, key) => db.table("notes").get(key),
    close: (db) => db.close(),
  },
};

// ---- being stopped ---------------------------------------------------------------------------

/** Transactions of this tab that are open. */
const openOnes = new Set();
const { transaction } = IDBDatabase.prototype;
IDBDatabase.prototype.transaction = function (...args) {
  const tx = transaction.apply(this, args);
  openOnes.add(tx);
  for (const event of ["complete", "abort"]) tx.addEventListener(event, () => openOnes.delete(tx));
  return tx;
};

/**
 * Resolves when no transaction is open. A tab that is stopped in the middle of one holds up all other tabs,
 * and so loses no lease.
 */
async function quiet() {
  while (openOnes.size > 0) await new Promise((resolve) => setTimeout(resolve));
}

/** Hangs until the server answers. */
function hang() {
  const request = new XMLHttpRequest();
  request.open("GET", "/tests/browser/wake-up", false);
  request.send();
}

const bareWrite = (db, key, value) => {
  const tx = db.transaction("notes", "readwrite");
  tx.objectStore("notes").put(value, key);
  return ended(tx);
};

const fencedWrite = (db, lease, key, value, n) =>
  n % 2 === 0
    ? wrappers.raw.write(db, lease, key, value)
    : lease.transaction("notes", "readwrite", (tx) => tx.objectStore("notes").put(value, key));

/** Takes all these locks, as soon as each can be had, and does `use(lease, name, n)` with each. */
const takeAll = (locks, names, use = () => {}) =>
  Promise.all(
    names.map(async (name, n) => {
      const lease = await locks.acquire(name);
      await use(lease, name, n);
      return lease;
    }),
  );

/** Writes under each of these leases, with the fence and without. Resolves with how the fenced ones ended. */
const writeAll = (db, leases, value) =>
  Promise.all(
    leases.map(async (lease, n) => {
      const bare = bareWrite(db, `bare ${lease.name}`, value);
      const { error } = await outcome(fencedWrite(db, lease, `fenced ${lease.name}`, value, n));
      await bare;
      return { name: error?.name, code: error?.code };
    }),
  );

// The tab's clock, which can be made to stand still for a while, as it does when a computer sleeps: then
// the tab knows nothing of having been away, and only the fence does.
const realNow = performance.now.bind(performance);
let slept = 0;
performance.now = () => realNow() - slept;
/** Makes the clock stand still from now on; the function that it answers with makes it go on. */
const stopClock = () => {
  const since = realNow();
  return () => (slept += realNow() - since);
};

/** How a call ended, in a form that crosses over to the test. */
const outcome = (promise) =>
  promise.then(
    (value) => ({ value }),
    (error) => ({
      error: { name: error?.name, code: error?.code, message: error?.message, token: error?.token },
    }),
  );

/** The same for what throws at once. */
const thrown = (call) => {
  try {
    call();
  } catch (error) {
    return { name: error.name, code: error.code, message: error.message };
  }
};

const unhandled = [];
addEventListener("unhandledrejection", (event) => unhandled.push(String(event.reason)));

Object.assign(window, {
  ...{
    tabLease,
    idb,
    Dexie,
    wrappers,
    openRaw,
    ended,
    result,
    realNow,
    stopClock,
    outcome,
    thrown,
    unhandled,
  },
  ...{ openOnes, quiet, hang, bareWrite, fencedWrite, takeAll, writeAll, ready: true },
});
