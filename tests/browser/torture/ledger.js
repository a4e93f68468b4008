// The counters that the lock protects. Beside each value stands the token of its last writer,
// and a lower one is refused: a tab that stood still between a read and a write may have lost the lock
// meanwhile, and only the token can tell. What was written is kept, row by row.
//
// A readwrite transaction that a page leaves open as it is frozen blocks everybody for a minute. That is
// no matter of the lock, so it is avoided here: see `still`.

export const DATABASE = "torture";
export const NAMES = ["red", "green", "blue"];

/** A transaction that did not happen, since a higher token has been here. */
export class Refused extends Error {}

let opened;
function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("counters");
      request.result.createObjectStore("writes", { autoIncrement: true });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

const running = new Set();
let gate;

/** Lets no transaction begin until `goOn()`. Resolves when none runs. */
export async function still() {
  gate ??= Promise.withResolvers();
  while (running.size > 0)
    await new Promise((resolve) => [...running][0].addEventListener("complete", resolve));
}

export function goOn() {
  gate?.resolve();
  gate = undefined;
}

function stopAtOnce() {
  gate ??= Promise.withResolvers();
  for (const tx of running) {
    try {
      tx.abort();
    } catch {
      // It is being committed, which needs nothing of this page.
    }
  }
}

// A worker is not told. The test that freezes its page makes sure that the worker is still.
globalThis.document?.addEventListener("freeze", stopAtOnce);
globalThis.document?.addEventListener("resume", goOn);
globalThis.addEventListener("pagehide", stopAtOnce);
globalThis.addEventListener("pageshow", goOn);

/** Resolves with the database when a transaction may begin. */
export async function ready() {
  const db = await open();
  while (gate) await gate.promise;
  return db;
}

/** One transaction over the counter of that name: `change({ value, token })` gives what is put there. */
function transact(db, name, token, change) {
  const tx = db.transaction(["counters", "writes"], "readwrite", { durability: "relaxed" });
  running.add(tx);
  return new Promise((resolve, reject) => {
    let found;
    let refused;
    const counters = tx.objectStore("counters");
    counters.get(name).onsuccess = ({ target }) => {
      found = target.result ?? { value: 0, token: 0 };
      refused = found.token > token && new Refused(`${token} is out of date: ${found.token} has been here`);
      if (refused) return tx.abort();
      counters.put(change(found, tx.objectStore("writes")), name);
      tx.commit();
    };
    tx.oncomplete = () => resolve(found.value);
    tx.onabort = () => reject(refused || new Error(`the transaction was aborted: ${tx.error}`));
  }).finally(() => running.delete(tx));
}

/** Reads the value, and shuts out everybody with a lower token. */
export const read = (db, name, token) => transact(db, name, token, ({ value }) => ({ value, token }));

/** Writes a value, whatever is there now: if it is not what was read, an update is lost. */
export const write = (db, name, token, value, who) =>
  transact(db, name, token, (found, writes) => {
    writes.add({ name, token, value, over: found.value, ...who });
    return { value, token };
  });

/** All values and all rows. */
export async function audit() {
  const tx = (await open()).transaction(["counters", "writes"]);
  const result = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
  const rows = result(tx.objectStore("writes").getAll());
  const values = await Promise.all(NAMES.map((name) => result(tx.objectStore("counters").get(name))));
  return {
    values: Object.fromEntries(NAMES.map((name, n) => [name, values[n]?.value ?? 0])),
    rows: await rows,
  };
}
