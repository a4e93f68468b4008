// The errors that callers get: each has a `name` and a stable `code`, and says what happened to the lock.

/** @import { FailureCode, LossCode } from "./internal.js" */

/** An error with a stable `code`. @template {string} Code */
class CodedError extends Error {
  /** @param {Code} code @param {string} message @param {ErrorOptions} [options] */
  constructor(code, message, options) {
    super(message, options);
    this.code = code;
  }
}

/**
 * The lock was not to be had within the caller's `timeout`. Nothing is held.
 * @extends {CodedError<"TIMEOUT">}
 */
export class TimeoutError extends CodedError {}
TimeoutError.prototype.name = "TimeoutError";

/**
 * The lease ended under its holder: what it protects must not be written any more.
 * @extends {CodedError<LossCode>}
 */
export class LeaseLostError extends CodedError {
  /** @param {LossCode} code @param {string} message @param {number} token @param {ErrorOptions} [options] */
  constructor(code, message, token, options) {
    super(code, message, options);
    this.token = token;
  }
}
LeaseLostError.prototype.name = "LeaseLostError";

/**
 * IndexedDB, or the package's own wasm, was not to be had. `cause` says why. Nothing is held.
 * @extends {CodedError<FailureCode>}
 */
export class StoreError extends CodedError {}
StoreError.prototype.name = "StoreError";

export const LOSSES = {
  LEASE_SUPERSEDED: "another tab has taken over, or the lease record was deleted",
  LEASE_EXPIRED: "it ran out before this tab could renew it: the tab was suspended, throttled or too busy",
  LEASE_STORE_FAILED: "it ran out while IndexedDB failed or did not answer",
  LEASE_SUSPENDED: "this page was frozen, or left and kept for the way back; it let go before",
  LEASE_BROKEN: "tab-lease failed on this page (see STORE_BROKEN)",
  LEASE_STORE_CLOSED: "the lease database was deleted, or upgraded by another version of the app",
  LEASE_COLLECTED: "it was garbage-collected without having been released",
  LEASE_RELEASED: "it was released before",
};

const FAILURES = {
  STORE_BROKEN: "tab-lease failed on this page, and cannot go on: reload the page",
  STORE_LOAD_FAILED: "tab-lease's wasm could not be loaded; the next call tries again",
  STORE_UNAVAILABLE:
    "IndexedDB is missing or refused here " +
    "(private mode, blocked site data, a sandboxed frame, or a broken profile)",
  STORE_BLOCKED:
    "an upgrade of the lease database is blocked by another tab that keeps it open; close that tab",
  STORE_FOREIGN: "the database exists and holds something else than leases; choose another database name",
  STORE_CLOSED: "the database that was given to createLocks is closed; make new locks with an open one",
  STORE_STALLED: "IndexedDB did not answer in time; another tab may be blocking the database",
  STORE_CORRUPT: "the stored lease record is damaged or not tab-lease's, and was left as it is",
  STORE_FAILED: "IndexedDB failed",
};

/** @param {FailureCode} code @param {unknown} [cause] @param {string} [detail] */
export const storeError = (code, cause, detail) =>
  new StoreError(
    code,
    FAILURES[code] + (detail ? `: ${detail}` : ""),
    cause === undefined ? undefined : { cause },
  );

/** @param {string} name @param {number} [timeout] @param {string} [why] */
export const timedOut = (name, timeout, why = "it is held by somebody else") =>
  new TimeoutError("TIMEOUT", `timed out after ${timeout} ms waiting for the lock ${quoted(name)}: ${why}`);

/**
 * Makes the documented error of what Rust rejected with.
 * @param {string} name @param {number | undefined} timeout @param {any} failure
 */
export function failed(name, timeout, failure) {
  if (failure?.code === "TIMEOUT" && !(failure instanceof Error)) return timedOut(name, timeout);
  if (failure?.code === "NOT_LEASES") return notLeases(failure.detail);
  if (failure?.code in FAILURES) return storeError(failure.code, failure.cause, failure.detail);
  return failure;
}

/** @param {string} name */
export const quoted = (name) => JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);

/** @param {string} name @param {number} token @param {LossCode} code @param {unknown} [cause] */
export const lost = (name, token, code, cause) => {
  const message = `the lease of ${quoted(name)} with token ${token} was lost: ${LOSSES[code]}`;
  return new LeaseLostError(code, message, token, cause === undefined ? undefined : { cause });
};

/** @param {string} store */
export const notLeases = (store) =>
  bad(
    TypeError,
    `the app has a store ${quoted(store)} that is not a lease store; nothing was touched. ` +
      'Give ours another name: addLeaseStore(db, { name: "my_leases" }) and ' +
      'createLocks({ database: db, store: "my_leases" })',
  );

/** @param {ErrorConstructor} Kind @param {string} message @param {ErrorOptions} [options] */
export const bad = (Kind, message, options) =>
  Object.assign(new Kind(message, options), { code: "BAD_ARGUMENT" });
