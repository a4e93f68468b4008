// What is measured, each behind one interface: loading one resolves with `acquire(name)`, which
// resolves with `release()`. A page loads one contender only: some of them have timers of their own.

/** Settles a request of the store. */
const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** `LockManager.request` turned inside out: native, and its polyfill. */
const byRequest = (locks) => (name) =>
  new Promise((granted, failed) => {
    const over = locks.request(name, () => new Promise((resolve) => granted(() => (resolve(), over))));
    over.catch(failed);
  });

/** This package, and another checkout of it to compare with: `npm run bench -- --before FOLDER`. */
const PACKAGES = { "tab-lease": "/js/index.js", "tab-lease (before)": "/before/js/index.js" };

/** The package itself, for what only it can do. */
export const own = (name) => import(PACKAGES[name]);

const leases = (name) => async () => {
  const { acquire } = await own(name);
  return async (name) => {
    const lease = await acquire(name);
    return () => lease.release();
  };
};

const CONTENDERS = {
  ...Object.fromEntries(Object.keys(PACKAGES).map((name) => [name, leases(name)])),

  "navigator.locks": async () => byRequest(navigator.locks),

  "browser-tabs-lock": async () => {
    const { default: module } = await import("browser-tabs-lock");
    const lock = new (module.default ?? module)();
    return async (name) => {
      // Its default patience is 5 s, after which it answers false.
      if (!(await lock.acquireLock(name, 60_000))) throw new Error("gave up");
      return () => lock.releaseLock(name);
    };
  },

  "idb-mutex": async () => {
    const { default: module } = await import("idb-mutex");
    const mutexes = new Map();
    return async (name) => {
      // Making one opens the database: done once a name, as an app would.
      if (!mutexes.has(name)) mutexes.set(name, new (module.default ?? module)(name));
      await mutexes.get(name).lock();
      return () => mutexes.get(name).unlock();
    };
  },

  /** The npm package of that name: a polyfill, which stands back where there are native locks. */
  "navigator.locks (polyfill)": async () => {
    const native = navigator.locks;
    // So there are none when it loads: an own property of this page's navigator hides them.
    Object.defineProperty(navigator, "locks", { value: undefined, configurable: true });
    await import("navigator.locks");
    if (!navigator.locks || navigator.locks === native) throw new Error("the polyfill did not install itself");
    return byRequest(navigator.locks);
  },

  // The two physical limits. They lock nothing.

  /** One relaxed readwrite transaction that gets and puts one record. */
  "bare transaction": async () => {
    const opening = indexedDB.open("bare", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("records");
    const db = await done(opening);
    return async (name) => {
      const tx = db.transaction("records", "readwrite", { durability: "relaxed" });
      const over = new Promise((resolve, reject) => {
        tx.oncomplete = resolve;
        tx.onabort = () => reject(tx.error);
      });
      const records = tx.objectStore("records");
      const reading = records.get(name);
      reading.onsuccess = () => {
        const { token = 0 } = reading.result ?? {};
        records.put({ token: token + 1, holder: "somebody", since: Date.now() }, name);
      };
      await over;
      return () => {};
    };
  },

  /** One message from tab to tab: whoever "waits" goes on when the other one says so. */
  "BroadcastChannel hop": async () => {
    const channels = new Map();
    return (name, first) => {
      if (!channels.has(name)) channels.set(name, new BroadcastChannel(`hop ${name}`));
      const channel = channels.get(name);
      const release = () => channel.postMessage("go");
      if (first) return Promise.resolve(release);
      return new Promise((resolve) => (channel.onmessage = () => resolve(release)));
    };
  },
};

export const load = (name) => CONTENDERS[name]();
