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
      if ((await over) === "aborted") await checked.then(() => Promise.reject(new Error("aborted, but not by the fence")));
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

/** Runs on for so long. */
const hang = (ms) => {
  const end = realNow() + ms;
  while (realNow() < end);
};

// The tab's clock, which can be made to stand still for a while, as it does when a computer sleeps: then
// the tab knows nothing of having been away, and only the fence does.
const realNow = performance.now.bind(performance);
let slept = 0;
performance.now = () => realNow() - slept;
const sleptFor = (ms) => (slept += ms);

/** How a call ended, in a form that crosses over to the test. */
const outcome = (promise) =>
  promise.then(
    (value) => ({ value }),
    (error) => ({ error: { name: error?.name, code: error?.code, message: error?.message, token: error?.token } }),
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

Object.assign(window, { tabLease, idb, wrappers, openRaw, ended, result, hang, realNow, sleptFor, outcome, thrown, unhandled, ready: true });
