// The app's own database: its lease store, and what wrappers (idb, Dexie) hand out in its place.
import { bad, notLeases, quoted } from "./errors.js";

/** @import { App } from "./internal.js" */

/** The name of the object store that holds the leases, unless another is given. */
export const LEASE_STORE = "leases";

/**
 * A lease store is marked by an index of this name, over the property of this name, which no lease has. It
 * can be seen without a request. (src/store/indexed_db.rs has the same.)
 */
export const MARK = "tab_lease";

/** The lease store in a schema of Dexie's: keys of its own, and the mark. */
export const LEASE_SCHEMA = `,${MARK}`;

/**
 * Whether a store has the mark; `undefined` if it cannot hold leases at all.
 * @param {IDBObjectStore} store
 */
export const isMarked = (store) =>
  store.keyPath === null && !store.autoIncrement ? store.indexNames.contains(MARK) : undefined;

/**
 * The platform's object behind what a wrapper hands out (`idb`'s proxies call a method on the object
 * that they stand for), or the object itself.
 * @template {EventTarget} T
 * @param {T} object
 * @returns {T}
 */
export function unwrapped(object) {
  // Theirs is a function of the wrapper's.
  if (object.addEventListener === EventTarget.prototype.addEventListener) return object;
  const key = Symbol("tab-lease");
  const probed = /** @type {any} */ (object);
  /** @type {any} */
  let found;
  probed[key] = /** @this {T} */ function () {
    found = this;
  };
  probed[key]();
  delete probed[key];
  return found;
}

/** The IDBTransaction that is meant: one as it is, one of `idb`'s, or one of Dexie's. @param {any} given */
export function checkTransaction(given) {
  const transaction = given?.idbtrans ?? given;
  if (transaction instanceof globalThis.IDBTransaction) return unwrapped(transaction);
  throw bad(TypeError, "fence needs an IDBTransaction, or one of idb's or Dexie's, that has begun");
}

/**
 * What a store of a connection looks like; nothing, if that is closed, or being upgraded at the moment.
 * @param {IDBDatabase} connection @param {string} name
 */
function look(connection, name) {
  try {
    // It ends by itself. An abort would be heard by the app's handlers.
    return { marked: isMarked(connection.transaction(name).objectStore(name)) };
  } catch {
    // The first call looks again.
  }
}

/**
 * A database of the app's with a lease store of that name: what it is called, and how to get at it.
 * @param {any} given @param {string} store
 */
export function checkDatabase(given, store) {
  const dexie = typeof given?.backendDB === "function";
  const app = dexie ? given.backendDB() : given;
  if (!(app instanceof globalThis.IDBDatabase)) {
    throw bad(TypeError, "database must be a name or an open IDBDatabase, or one of idb's or Dexie's");
  }
  const connection = unwrapped(app);
  if (!connection.objectStoreNames.contains(store)) {
    const named = store === LEASE_STORE ? "" : `(db, { name: ${quoted(store)} })`;
    throw bad(
      TypeError,
      `the database ${quoted(connection.name)} has no store ${quoted(store)}: ` +
        `call addLeaseStore${named} in its upgrade`,
    );
  }
  const seen = look(connection, store);
  // A schema of Dexie's may make it without the mark. Then the first call looks at what is in it.
  if (seen && !seen.marked && !(dexie && seen.marked === false)) throw notLeases(store);
  /** @type {App["transaction"]} */
  const transaction = (stores, mode) =>
    app.transaction([...(typeof stores === "string" ? [stores] : stores), store], mode);
  return { database: connection.name, connection, vetted: Boolean(seen?.marked), app: { transaction } };
}
