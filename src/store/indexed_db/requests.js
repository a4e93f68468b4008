// What is asked of IndexedDB, and in which order. Rust decides what is written: it is called back while the
// transaction waits for that and for nothing else. See indexed_db.rs.

/**
 * The store's one way back: it takes what has happened (a number, of those below or one that Rust has given)
 * and two values that go with it.
 * @typedef {(what: number, value?: unknown, other?: unknown) => any} Hears
 */

const ROW = 0;
const BLOCKED = 1;
const WANTED = 2;
const SEVERED = 3;
const CLOSING = 4;

/**
 * The answer to a request.
 * @template T @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
const answer = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/**
 * Rejects if the transaction fails. An abort by the browser (a full disk) has its reason in `tx.error`.
 * @param {IDBTransaction} tx @param {(reason: unknown) => void} reject
 */
function failing(tx, reject) {
  tx.onabort = () => reject(tx.error ?? new Error("the transaction was aborted"));
}

/**
 * Commits, and resolves when that is done: success is reported only for what is written.
 * @param {IDBTransaction} tx @param {() => void} then
 */
const committed = (tx, then) =>
  new Promise((resolve, reject) => {
    tx.oncomplete = () => resolve(then());
    failing(tx, reject);
    tx.commit();
  });

/**
 * Begins a transaction. Relaxed: all tabs see the write once it is committed, and if the machine loses power,
 * it has no holders any more either.
 * @param {IDBDatabase} db @param {string} name @param {IDBTransactionMode} mode
 */
export const begin = (db, name, mode) => db.transaction(name, mode, { durability: "relaxed" });

/**
 * Applies commands in one transaction, each to the record of its key, one after the other. They are numbered
 * from `first` on.
 *
 * Rust hears the record (`undefined`: there is none; `null`: it is empty) and the note that it has asked for
 * (`null`: there is none; `undefined`: it was not asked for). It answers with one key, whose note it has to
 * see first; or with keys, and for each what to write there (`undefined`: delete).
 * @param {IDBTransaction} tx @param {string} name @param {string[]} keys @param {number} first
 * @param {Hears} hears
 */
export function transact(tx, name, keys, first, hears) {
  const store = tx.objectStore(name);
  // A record is asked for ahead, unless a command before may change it.
  const ahead = keys.map((key, place) => keys.indexOf(key) === place && store.get(key));
  return new Promise((/** @type {(done: unknown) => void} */ resolve, reject) => {
    let written = false;
    failing(tx, reject);
    /**
     * Calls `then` with the answer to a request, within its event.
     * @template T @param {IDBRequest<T>} request @param {(result: T) => void} then
     */
    const when = (request, then) => {
      const told = () => {
        try {
          if (request.error) reject(request.error);
          else then(request.result);
        } catch (error) {
          reject(error);
        }
      };
      // The request may have been answered while another one was waited for.
      if (request.readyState === "done") told();
      else request.onsuccess = request.onerror = told;
    };
    /** @param {number} place @returns {void} */
    const next = (place) => {
      if (place < keys.length) {
        return when(ahead[place] || store.get(keys[place]), (found) => look(place, found));
      }
      // A transaction that has written nothing ends by itself.
      return resolve(written && committed(tx, () => {}));
    };
    /** @param {number} place @param {unknown} found @returns {void} */
    const look = (place, found) => {
      if (found !== undefined) return step(place, found);
      // There is no such key, or `undefined` was stored.
      return when(store.getKey(keys[place]), (key) => step(place, key === undefined ? key : null));
    };
    /** @param {number} place @param {unknown} found @param {unknown} [note] @returns {void} */
    const step = (place, found, note) => {
      // Rust answers nothing, if no command waits any more.
      const asked = hears(first + place, found, note) ?? [];
      if (asked.length === 1) return when(store.get(asked[0]), (note) => step(place, found, note ?? null));
      for (let at = 0; at < asked.length; at += 2) {
        written = true;
        if (asked[at + 1]) store.put(asked[at + 1], asked[at]);
        else store.delete(asked[at]);
      }
      return next(place + 1);
    };
    next(0);
  });
}

/**
 * Puts notes blindly (`notes`: their keys and values). In the end Rust hears the records as they were before.
 * All requests are sent at once: nothing is left open if the page stops now.
 * @param {IDBTransaction} tx @param {string} name @param {string[]} keys @param {any[]} notes
 * @param {number} first @param {Hears} hears
 */
export function renew(tx, name, keys, notes, first, hears) {
  const store = tx.objectStore(name);
  const found = keys.map((key, place) => {
    const request = store.get(key);
    store.put(notes[2 * place + 1], notes[2 * place]);
    return request;
  });
  return committed(tx, () => found.forEach((request, place) => hears(first + place, request.result)));
}

/**
 * Shows what commands would find, and writes nothing. Rust hears of each record as in `transact`, and asks
 * for one note at most. All records are asked for at once, and so are the notes.
 * @param {IDBTransaction} tx @param {string} name @param {string[]} keys @param {number} first
 * @param {Hears} hears
 */
export function peek(tx, name, keys, first, hears) {
  const store = tx.objectStore(name);
  /** @param {string} key @param {number} place */
  const look = async (key, place) => {
    const found = await answer(store.get(key));
    const [noted] = hears(first + place, found) ?? [];
    if (noted) hears(first + place, found, (await answer(store.get(noted))) ?? null);
  };
  return Promise.all(keys.map(look));
}

/**
 * Puts a note, which is committed even if the page ends now.
 * @param {IDBDatabase} db @param {string} name @param {string} key @param {unknown} note
 */
export function leave(db, name, key, note) {
  const tx = db.transaction(name, "readwrite");
  tx.objectStore(name).put(note, key);
  tx.commit();
}

/** The value at a key. @param {IDBDatabase} db @param {string} name @param {string} key */
export const get = (db, name, key) => answer(begin(db, name, "readonly").objectStore(name).get(key));

/** All keys, and all values. @param {IDBDatabase} db @param {string} name */
export function all(db, name) {
  const store = begin(db, name, "readonly").objectStore(name);
  return Promise.all([answer(store.getAllKeys()), answer(store.getAll())]);
}

/**
 * What a store looks like: 2 if it has the mark of a lease store, 1 if it has only the shape, 0 if neither.
 * @param {IDBObjectStore} store @param {string} mark
 */
export const look = (store, mark) =>
  store.keyPath === null && !store.autoIncrement
    ? 1 + /** @type {any} */ (store.indexNames.contains(mark))
    : 0;

/**
 * Whether a store is one of leases: by its mark, or by everything that is in it.
 * @param {IDBDatabase} db @param {string} name @param {string} mark @param {Hears} hears
 */
export async function isOurs(db, name, mark, hears) {
  const store = begin(db, name, "readonly").objectStore(name);
  const seen = look(store, mark);
  if (seen !== 1) return seen > 1;
  // One by one: the first row that is not ours ends the search, and an application's store may be large.
  for (const key of await answer(store.getAllKeys())) {
    if (!hears(ROW, key, await answer(store.get(key)))) return false;
  }
  return true;
}

/** Makes a lease store, in an upgrade. @param {IDBDatabase} db @param {string} name @param {string} mark */
export const create = (db, name, mark) => void db.createObjectStore(name).createIndex(mark, mark);

/** @param {string} name @param {number} [version] */
function requestOpen(name, version) {
  try {
    // The getter throws in some sandboxed frames; where site data is blocked it may be null.
    const factory = globalThis.indexedDB;
    if (!factory) throw new Error("there is no indexedDB");
    return version ? factory.open(name, version) : factory.open(name);
  } catch (error) {
    throw [error, true];
  }
}

/**
 * Opens a database, creating what is missing. Resolves with `undefined` if the database is not ours. Rejects
 * with an error, and whether it was thrown; if it was not, an event has told it.
 * @param {string} name @param {string} store @param {string} mark @param {Hears} hears
 */
export async function open(name, store, mark, hears) {
  // No version is asked for: an older copy of this package must still open what a newer one made.
  for (let /** @type {number | undefined} */ version; ; ) {
    const request = requestOpen(name, version);
    /** @type {unknown} */
    let broken;
    request.onupgradeneeded = () => {
      try {
        create(request.result, store, mark);
      } catch (error) {
        // Thrown here, it would be reported as an error of the page's.
        broken = error;
        /** @type {IDBTransaction} */ (request.transaction).abort();
      }
    };
    request.onblocked = () => hears(BLOCKED);
    const db = await answer(request).catch((error) => {
      throw [broken ?? error, false];
    });
    const stores = db.objectStoreNames;
    if (stores.contains(store)) return db;
    const now = db.version;
    db.close();
    if (stores.length > 0 || version) return undefined;
    // It is an empty database of our name, made by a tool or by an interrupted first start.
    version = now + 1;
  }
}

/**
 * Tells when another tab wants the database closed, or the browser has closed it.
 * @param {IDBDatabase} db @param {Hears} hears
 */
export function watch(db, hears) {
  db.onversionchange = () => hears(WANTED, db);
  db.onclose = () => hears(SEVERED, db);
}

/**
 * Tells when an application's own connection is wanted closed, or was closed. The application may have
 * been told first, so whether it closes the connection does not matter.
 * @param {IDBDatabase} db @param {Hears} hears
 */
export function attend(db, hears) {
  for (const event of ["versionchange", "close"]) db.addEventListener(event, () => hears(CLOSING));
}

/** @param {IDBDatabase} db */
export function close(db) {
  db.onversionchange = null;
  db.onclose = null;
  db.close();
}

/**
 * Makes the check at the head of a transaction of the application's. Rust hears by `number`
 *
 * - the record that was found; it answers `false`, `true`, or what to write, which is `true` as well;
 * - why the transaction was aborted, if so, and `true`, when the transaction is over.
 * @param {IDBTransaction} tx @param {string} name @param {string} key @param {number} number
 * @param {Hears} hears
 */
export function fence(tx, name, key, number, hears) {
  const store = tx.objectStore(name);
  const request = store.get(key);
  // This is the platform's, or that of another fence of the same transaction.
  const { commit } = tx;
  let told = false;
  let passed = false;
  let commits = false;
  const commitIfAsked = () => {
    if (!(passed && commits)) return;
    commits = false;
    commit.call(tx);
  };
  // It may be too late for `act`, if the application has got round the commit below. Then it throws.
  /** @param {() => void} act */
  const tried = (act) => {
    try {
      act();
    } catch {
      // The transaction says what comes of it.
    }
  };
  request.onsuccess = () => {
    told = true;
    const checked = hears(number, request.result);
    // If the wasm has failed, the answer is none of these.
    passed = checked === true || checked?.length > 0;
    tried(() => {
      if (!passed) tx.abort();
      else if (checked !== true) store.put(checked, key);
    });
    tried(commitIfAsked);
  };
  const over = () => {
    Reflect.deleteProperty(tx, "commit");
    // A caller that has been told what came of the check needs no reason.
    const aborted = () => new DOMException("the transaction was aborted", "AbortError");
    hears(number, told ? undefined : (tx.error ?? aborted()), true);
  };
  // Listeners, because the handlers are the application's. Capturing, so that they are called first: the
  // application may release the lease when it hears that the transaction is over.
  for (const event of ["complete", "abort"]) tx.addEventListener(event, over, true);
  const asked = () => {
    commits = true;
    tried(commitIfAsked);
  };
  if (/** @type {unknown} */ (commit)) Reflect.set(tx, "commit", asked);
}
