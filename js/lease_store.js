// Adds the lease store to a database of the app's.
import { checkKeys, checkText } from "./arguments.js";
import { isMarked, LEASE_STORE, MARK, unwrapped } from "./database.js";
import { bad, notLeases } from "./errors.js";

/** @import { LeaseStoreOptions } from "./index.js" */

const PROBE = "tab-lease looks at a store";

/**
 * A store that is there already. An upgrade's transaction is reached by nothing but what it makes.
 * @param {IDBDatabase} database @param {string} name
 */
function existing(database, name) {
  const upgrade = database.createObjectStore(PROBE).transaction;
  database.deleteObjectStore(PROBE);
  return upgrade.objectStore(name);
}

/**
 * Adds the lease store to a database of the app's, inside its upgrade handler. Does nothing if it is there.
 * Refuses another store of that name.
 * @param {any} given @param {LeaseStoreOptions} [options]
 */
export function addLeaseStore(given, options) {
  if (typeof given?.createObjectStore !== "function")
    throw bad(TypeError, "addLeaseStore needs an IDBDatabase");
  const name = checkText(checkKeys(options, ["name"], "options").name ?? LEASE_STORE, "name");
  const database = unwrapped(given);
  /** @type {IDBObjectStore | undefined} */
  let store;
  try {
    if (database.objectStoreNames.contains(name)) store = existing(database, name);
    else database.createObjectStore(name).createIndex(MARK, MARK);
  } catch (cause) {
    throw bad(TypeError, "addLeaseStore must be called in the upgrade of the database, while that runs", {
      cause,
    });
  }
  if (store && !isMarked(store)) throw notLeases(name);
}
