// The app's own database: its lease store, and what wrappers (idb, Dexie) hand out in its place.
import { bad, quoted } from "./errors.js";

/** The name of the object store that holds the leases. */
export const LEASE_STORE = "leases";

/**
 * Adds the lease store to a database of the app's, inside its upgrade handler. Does nothing if it is there.
 */
export function addLeaseStore(database) {
  if (typeof database?.createObjectStore !== "function") throw bad(TypeError, "addLeaseStore needs an IDBDatabase");
  if (database.objectStoreNames.contains(LEASE_STORE)) return;
  try {
    database.createObjectStore(LEASE_STORE);
  } catch (cause) {
    throw bad(TypeError, "addLeaseStore must be called in the upgrade of the database, while that runs", { cause });
  }
}

/**
 * The platform's object behind what a wrapper hands out (`idb`'s proxies call a method on the object
 * that they stand for), or the object itself.
 */
export function unwrapped(object) {
  // Theirs is a function of the wrapper's.
  if (object.addEventListener === EventTarget.prototype.addEventListener) return object;
  const key = Symbol("tab-lease");
  let found;
  object[key] = function () {
    found = this;
  };
  object[key]();
  delete object[key];
  return found;
}

/** The IDBTransaction that is meant: one as it is, one of `idb`'s, or one of Dexie's. */
export function checkTransaction(given) {
  const transaction = given?.idbtrans ?? given;
  if (transaction instanceof globalThis.IDBTransaction) return unwrapped(transaction);
  throw bad(TypeError, "fence needs an IDBTransaction, or one of idb's or Dexie's, that has begun");
}

/** A database of the app's: its name, the connection that is used, and what the app calls it. */
export function checkDatabase(given) {
  const app = typeof given?.backendDB === "function" ? given.backendDB() : given;
  if (!(app instanceof globalThis.IDBDatabase)) {
    throw bad(TypeError, "database must be a name or an open IDBDatabase, or one of idb's or Dexie's");
  }
  const connection = unwrapped(app);
  if (!connection.objectStoreNames.contains(LEASE_STORE)) {
    throw bad(TypeError, `the database ${quoted(connection.name)} has no store "${LEASE_STORE}": call addLeaseStore in its upgrade`);
  }
  return { database: connection.name, connection, app };
}
