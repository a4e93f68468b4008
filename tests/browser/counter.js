// A counter in IndexedDB that loses updates unless somebody takes turns. For pages and workers alike.

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let counterDb;

/** The counter's database, shared by the tabs and by no lock. */
function counters() {
  counterDb ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("counters", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("counters");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return counterDb;
}

export const counter = {
  async read(name) {
    const db = await counters();
    return (await result(db.transaction("counters").objectStore("counters").get(name))) ?? 0;
  },

  async write(name, value) {
    const db = await counters();
    const tx = db.transaction("counters", "readwrite");
    tx.objectStore("counters").put(value, name);
    await new Promise((resolve, reject) => {
      tx.oncomplete = () => resolve();
      tx.onabort = () => reject(tx.error);
    });
  },

  /** A read and a write in two transactions: a write in between is overwritten. */
  async increment(name) {
    const value = await counter.read(name);
    await counter.write(name, value + 1);
    return value + 1;
  },

  /**
   * The same under a lease, which is asked before the write; and the write takes with it an entry in a
   * log, so that it is known how many were made.
   */
  async incrementUnder(lease, name) {
    const value = await counter.read(name);
    lease.signal.throwIfAborted();
    const tx = (await counters()).transaction("counters", "readwrite");
    const store = tx.objectStore("counters");
    store.put(value + 1, name);
    store.put(lease.token, [name, "made", crypto.randomUUID()]);
    tx.commit();
    await new Promise((resolve, reject) => {
      tx.oncomplete = () => resolve();
      tx.onabort = () => reject(tx.error);
    });
  },

  /** How many increments the log has. */
  async made(name) {
    const store = (await counters()).transaction("counters").objectStore("counters");
    return result(store.count(IDBKeyRange.bound([name, "made"], [name, "made", []])));
  },

  /** Writes, unless somebody with a higher token has. Answers whether it did. */
  async writeByToken(name, value, token) {
    const store = (await counters()).transaction("counters", "readwrite").objectStore("counters");
    const stored = await result(store.get(name));
    if (stored?.token > token) return false;
    await result(store.put({ value, token }, name));
    return true;
  },
};
