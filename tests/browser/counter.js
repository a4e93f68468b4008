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

  /** A read and a write in two transactions: whoever gets in between is overwritten. */
  async increment(name) {
    const value = await counter.read(name);
    await counter.write(name, value + 1);
    return value + 1;
  },
};
