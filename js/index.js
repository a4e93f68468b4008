// tab-lease: cross-tab locks on leases kept in IndexedDB. See README.md; types in index.d.ts.
//
// This file checks arguments, loads the wasm on first use and makes platform-like objects of what
// comes back. Every decision about a lock is made in Rust (src/rules.rs, src/participant.rs).
// Importing it touches nothing: no browser global is read before the first call.
import init, { RawLocks } from "../pkg/tab_lease.js";

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

/** The defaults of {@link createLocks}, durations in ms. */
const DEFAULTS = { database: "tab-lease", holder: "tab", leaseMs: 500, storeTimeoutMs: 10_000 };
const MAX_LEASE_MS = 600_000;
const MAX_TIMER_MS = 2 ** 31 - 1;

/** An error with a stable `code`. */
class CodedError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.code = code;
  }
}

/** The lock was not to be had within the caller's `timeout`. Nothing is held. */
export class TimeoutError extends CodedError {
  static {
    this.prototype.name = "TimeoutError";
  }
}

/** The lease ended under its holder: what it protects must not be written any more. */
export class LeaseLostError extends CodedError {
  static {
    this.prototype.name = "LeaseLostError";
  }
}

/** IndexedDB, or the package's own wasm, was not to be had. `cause` says why. Nothing is held. */
export class StoreError extends CodedError {
  static {
    this.prototype.name = "StoreError";
  }
}

const LOSSES = {
  LEASE_SUPERSEDED: "another tab has taken over, or the lease record was deleted",
  LEASE_EXPIRED: "it ran out before this tab could renew it: the tab was suspended, throttled or too busy",
  LEASE_STORE_FAILED: "it ran out while IndexedDB failed or did not answer",
  LEASE_SUSPENDED: "this page was frozen, or left and kept for the way back; it let go before",
  LEASE_STORE_CLOSED: "the lease database was deleted, or upgraded by another version of the app",
  LEASE_COLLECTED: "it was garbage-collected without having been released",
  LEASE_RELEASED: "it was released before",
};

const FAILURES = {
  STORE_LOAD_FAILED: "tab-lease's wasm could not be loaded; the next call tries again",
  STORE_UNAVAILABLE: "IndexedDB is missing or refused here (private mode, blocked site data, or a sandboxed frame)",
  STORE_BLOCKED: "an upgrade of the lease database is blocked by another tab that keeps it open; close that tab",
  STORE_FOREIGN: "the database exists and holds other object stores, but no leases; choose another database name",
  STORE_CLOSED: "the database that was given to createLocks is closed; make new locks with an open one",
  STORE_STALLED: "IndexedDB did not answer in time; another tab may be blocking the database",
  STORE_CORRUPT: "the stored lease record is damaged or not tab-lease's, and was left as it is",
  STORE_FAILED: "IndexedDB failed",
};

const storeError = (code, cause, detail) =>
  new StoreError(code, FAILURES[code] + (detail ? `: ${detail}` : ""), cause === undefined ? undefined : { cause });

/** Makes the documented error of what Rust rejected with. */
function failed(name, timeout, failure) {
  if (failure?.code === "TIMEOUT") {
    return new TimeoutError("TIMEOUT", `timed out after ${timeout} ms: the lock ${quoted(name)} is held by somebody else`);
  }
  if (failure?.code in FAILURES) return storeError(failure.code, failure.cause, failure.detail);
  return failure;
}

const quoted = (name) => JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);

// ---- arguments -------------------------------------------------------------------------------

const bad = (Kind, message, options) => Object.assign(new Kind(message, options), { code: "BAD_ARGUMENT" });

function checkText(value, what) {
  if (typeof value !== "string") throw bad(TypeError, `${what} must be a string`);
  if (value === "") throw bad(TypeError, `${what} must not be empty`);
  return value;
}

function checkMs(value, what, least, most) {
  if (typeof value !== "number") throw bad(TypeError, `${what} must be a number of milliseconds`);
  if (!(value >= least && value <= most)) throw bad(RangeError, `${what} must be from ${least} to ${most} ms, not ${value}`);
  return value;
}

/** Refuses what it does not know: an option that is ignored (`mode: "shared"`) is a lock that is not there. */
function checkKeys(options, known, what) {
  if (options === undefined) return {};
  if (options === null || typeof options !== "object") throw bad(TypeError, `${what} must be an object`);
  for (const key in options) {
    if (!known.includes(key) && options[key] !== undefined) throw bad(TypeError, `${what}: there is no option "${key}"`);
  }
  return options;
}

function checkOptions(options, known) {
  const { timeout, signal, scope } = checkKeys(options, known, "options");
  if (timeout !== undefined) checkMs(timeout, "timeout", 0, Number.MAX_SAFE_INTEGER);
  if (signal !== undefined && !(typeof signal?.addEventListener === "function" && "aborted" in signal)) {
    throw bad(TypeError, "signal must be an AbortSignal");
  }
  if (scope !== undefined && scope !== "tab" && scope !== "request") throw bad(TypeError, 'scope must be "tab" or "request"');
  return { timeout, signal, scope };
}

/**
 * The platform's object behind what a wrapper hands out (`idb`'s proxies call a method on the object
 * that they stand for), or the object itself.
 */
function unwrapped(object) {
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
function checkTransaction(given) {
  const transaction = given?.idbtrans ?? given;
  if (transaction instanceof globalThis.IDBTransaction) return unwrapped(transaction);
  throw bad(TypeError, "fence needs an IDBTransaction, or one of idb's or Dexie's, that has begun");
}

/** The name of a database, or one of the app's, with the connection that is used and what the app calls it. */
function checkDatabase(given) {
  if (typeof given === "string") return { database: checkText(given, "database") };
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

function checkSettings(settings) {
  const known = ["database", "holder", "leaseMs", "heartbeatMs", "storeTimeoutMs"];
  const given = checkKeys(settings, known, "settings");
  const pick = (key) => (given[key] === undefined ? DEFAULTS[key] : given[key]);
  const leaseMs = Math.round(checkMs(pick("leaseMs"), "leaseMs", 10, MAX_LEASE_MS));
  // A tenth, so that a missed beat costs nothing.
  const heartbeatMs = Math.round(checkMs(given.heartbeatMs ?? Math.max(leaseMs / 10, 1), "heartbeatMs", 1, MAX_LEASE_MS));
  if (heartbeatMs >= leaseMs) throw bad(RangeError, `heartbeatMs (${heartbeatMs}) must be below leaseMs (${leaseMs})`);
  return {
    ...checkDatabase(pick("database")),
    holder: checkText(pick("holder"), "holder"),
    leaseMs,
    heartbeatMs,
    storeTimeoutMs: checkMs(pick("storeTimeoutMs"), "storeTimeoutMs", 1, MAX_TIMER_MS),
  };
}

// Any JavaScript string is a name. Rust's strings cannot hold lone surrogates, so those are spelled
// out behind a code point that no text has any business with, and so is that one.
const encodeName = (name) =>
  name.replace(/[\uFFFF\p{Surrogate}]/gu, (unit) => `\uFFFF${unit.charCodeAt(0).toString(16)}`);
const decodeName = (key) => key.replace(/\uFFFF([0-9a-f]{4})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));

// ---- loading ---------------------------------------------------------------------------------

let loading;

/** Loads the wasm once; a failure is forgotten, so that the next call tries again. */
function load() {
  loading ??= init().catch((cause) => {
    loading = undefined;
    throw storeError("STORE_LOAD_FAILED", cause);
  });
  return loading;
}

/** Settles with `promise`, or rejects once `signal` is aborted or `ms` are over, whichever is first. */
async function bounded(promise, signal, ms, late) {
  let timer, abort;
  const ended = new Promise((_, reject) => {
    timer = setTimeout(() => reject(late()), Math.min(ms, MAX_TIMER_MS));
    abort = () => reject(signal.reason);
    signal?.addEventListener("abort", abort);
  });
  try {
    return await Promise.race([promise, ended]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

// ---- leases ----------------------------------------------------------------------------------

/** Releases what was dropped without a release, and says so: it is a bug that would block other tabs. */
let collected;

function watchCollection(lease, held) {
  collected ??= new FinalizationRegistry((held) => {
    console.warn(`tab-lease: a lease of ${quoted(held.name)} was garbage-collected without release(); it is released now`);
    held.raw.release();
    held.end("LEASE_COLLECTED");
  });
  collected.register(lease, held, held);
}

const lost = (name, token, code) => {
  const error = new LeaseLostError(code, `the lease of ${quoted(name)} with token ${token} was lost: ${LOSSES[code]}`);
  return Object.assign(error, { token });
};

/**
 * Makes a signal look at the clock when it is asked. After a hang the page may go on in the middle of a
 * task, before anybody can abort the signal: what it asks then must not be answered "go on".
 */
function asked(signal, look) {
  const { prototype } = AbortSignal;
  const own = (name) => Object.getOwnPropertyDescriptor(prototype, name).get;
  const [aborted, reason] = [own("aborted"), own("reason")];
  const fresh = (get) => ({
    get() {
      if (!aborted.call(signal)) look();
      return get.call(signal);
    },
  });
  return Object.defineProperties(signal, {
    aborted: fresh(aborted),
    reason: fresh(reason),
    throwIfAborted: {
      value() {
        if (signal.aborted) throw signal.reason;
      },
    },
  });
}

/**
 * What is held, and how that ends. It may outlive its `Lease`, which it does not refer to: else that
 * would never be collected.
 */
class Held {
  #error;
  #controller;

  constructor(name, raw) {
    this.name = name;
    this.raw = raw;
    raw.lost().then(({ code }) => {
      // Nothing is left to be released.
      collected.unregister(this);
      this.end(code);
    });
  }

  /** It is lost, for that reason, unless there was one before. */
  end(code) {
    this.#error ??= lost(this.name, this.raw.token, code);
    this.#controller?.abort(this.#error);
    return this.#error;
  }

  #look() {
    const code = this.raw.loss();
    if (code) this.end(code);
  }

  /** Throws if it is lost, as far as is known. */
  check() {
    this.#look();
    if (this.#error) throw this.#error;
  }

  /** Made when it is first asked for: whoever waits for a lease should not wait for that as well. */
  get signal() {
    if (!this.#controller) {
      this.#controller = new AbortController();
      asked(this.#controller.signal, () => this.#look());
      if (this.#error) this.#controller.abort(this.#error);
    }
    return this.#controller.signal;
  }
}

class Lease {
  #held;
  #app;
  #released;

  constructor(name, raw, app) {
    this.#held = new Held(name, raw);
    this.#app = app;
    watchCollection(this, this.#held);
  }

  /** Throws if it is lost, as far as is known. */
  static check(lease) {
    lease.#held.check();
  }

  get name() {
    return this.#held.name;
  }

  get token() {
    return this.#held.raw.token;
  }

  get dirty() {
    return this.#held.raw.dirty;
  }

  get signal() {
    return this.#held.signal;
  }

  fence(transaction) {
    this.#check();
    const checked = this.#fence(checkTransaction(transaction), false);
    // Whoever does not look hears of it from the transaction, and from the signal.
    checked.catch(() => {});
    return checked;
  }

  async transaction(stores, mode, callback) {
    if (mode !== "readonly" && mode !== "readwrite") throw bad(TypeError, 'mode must be "readonly" or "readwrite"');
    if (typeof callback !== "function") throw bad(TypeError, "transaction needs a callback, as its last argument");
    if (!this.#app) throw bad(TypeError, "the leases are not in a database of yours: see createLocks({ database: db })");
    this.#check();
    const transaction = this.#app.transaction([...[stores].flat(), LEASE_STORE], mode);
    const raw = unwrapped(transaction);
    // Of what idb promises beside; it is told here.
    transaction.done?.catch(() => {});
    const over = new Promise((resolve, reject) => {
      raw.addEventListener("complete", resolve);
      raw.addEventListener("abort", () => reject(raw.error ?? new DOMException("the transaction was aborted", "AbortError")));
    });
    const undo = () => {
      try {
        raw.abort();
      } catch {
        // It is over.
      }
    };
    try {
      const checked = this.#fence(raw, mode === "readonly");
      const run = (async () => callback(transaction))();
      run.catch(undo);
      // What fails first is the reason.
      const [value] = await Promise.all([run, checked, over]);
      return value;
    } catch (error) {
      undo();
      over.catch(() => {});
      throw error;
    }
  }

  /** Throws if the lease is known to be over. */
  #check() {
    this.#held.check();
    if (this.#released) throw lost(this.name, this.token, "LEASE_RELEASED");
  }

  /** Fences a transaction of the platform's; resolves when the check has passed. */
  #fence(transaction, reads) {
    let settle;
    const checked = new Promise((resolve, reject) => {
      settle = (failure) => (failure ? reject(this.#failed(failure)) : resolve());
    });
    try {
      this.#held.raw.fence(transaction, reads, settle);
    } catch (failure) {
      throw this.#failed(failure);
    }
    return checked;
  }

  /** Makes the documented error of why a transaction was not fenced. */
  #failed(failure) {
    const { code, detail, cause } = failure;
    if (code === "UNFIT") return bad(TypeError, `the transaction cannot be fenced: ${detail}`);
    if (code === "ABORTED") return cause;
    if (!(code in LOSSES)) return failed(this.name, undefined, failure);
    // Now, not when the loss gets here by its own way.
    return this.#held.end(code);
  }

  release() {
    collected.unregister(this.#held);
    this.#released ??= this.#held.raw.release();
    return this.#released;
  }

  [Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]() {
    return this.release();
  }
}

// ---- locks -----------------------------------------------------------------------------------

class Locks {
  #settings;
  #raw;
  #locks = new Map();

  constructor(settings) {
    this.#settings = checkSettings(settings);
  }

  /** The Rust side, made on first use. */
  async #open(signal, ms, late) {
    if (this.#raw) return this.#raw;
    await bounded(load(), signal, ms, late);
    const { database, connection, holder, leaseMs, heartbeatMs, storeTimeoutMs } = this.#settings;
    if (!this.#raw) {
      const raw = new RawLocks(database, holder, leaseMs, heartbeatMs, storeTimeoutMs);
      this.#raw = connection ? raw.over(connection) : raw;
    }
    return this.#raw;
  }

  /** The lock of a name. One object each, for the life of the page: it knows when it last held. */
  #lock(raw, name) {
    const key = encodeName(name);
    let lock = this.#locks.get(key);
    if (!lock) this.#locks.set(key, (lock = raw.lock(key)));
    return lock;
  }

  async #acquire(name, { timeout, signal, scope }) {
    signal?.throwIfAborted();
    const started = performance.now();
    // Asking once includes loading what asks; waiting does not outlast its deadline for it.
    const patience = timeout || this.#settings.storeTimeoutMs;
    const tooLate = () => (timeout ? failed(name, timeout, { code: "TIMEOUT" }) : storeError("STORE_LOAD_FAILED"));
    const raw = await this.#open(signal, patience, tooLate);
    const left = timeout && Math.max(timeout - (performance.now() - started), 1);
    let abort;
    let lock;
    const cancelled = signal && new Promise((resolve) => signal.addEventListener("abort", (abort = resolve)));
    try {
      signal?.throwIfAborted();
      lock = this.#lock(raw, name);
      if (scope === "request") lock = lock.apart();
      const held = await lock.acquire(left, cancelled);
      if (held && !signal?.aborted) return new Lease(name, held, this.#settings.app);
      // Granted and cancelled in one breath: the caller hears of the cancellation, so it is given back.
      await held?.release();
      throw signal.reason;
    } catch (failure) {
      throw signal?.aborted ? signal.reason : failed(name, timeout, failure);
    } finally {
      signal?.removeEventListener("abort", abort);
      if (scope === "request") lock?.free();
    }
  }

  async acquire(name, options) {
    // `await`: to return a promise as it is takes two turns more.
    return await this.#acquire(checkText(name, "name"), checkOptions(options, ["timeout", "signal", "scope"]));
  }

  async tryAcquire(name, options) {
    const checked = checkOptions(options, ["signal", "scope"]);
    try {
      return await this.#acquire(checkText(name, "name"), { ...checked, timeout: 0 });
    } catch (error) {
      if (error instanceof TimeoutError && error !== checked.signal?.reason) return null;
      throw error;
    }
  }

  async withLease(name, ...rest) {
    const callback = rest.pop();
    if (typeof callback !== "function") throw bad(TypeError, "withLease needs a callback, as its last argument");
    const lease = await this.acquire(name, ...rest);
    try {
      const result = await callback(lease);
      // The section was not protected to its end: its caller must not take it for done.
      Lease.check(lease);
      return result;
    } finally {
      await lease.release();
    }
  }

  async query() {
    const raw = await this.#open(undefined, this.#settings.storeTimeoutMs, () => storeError("STORE_LOAD_FAILED"));
    const held = [];
    const pending = [];
    let records;
    try {
      records = await raw.query();
    } catch (failure) {
      throw failed("", undefined, failure);
    }
    for (const record of records) {
      const name = decodeName(record.key);
      if (record.held) held.push({ name, ...record.held });
      for (const waiter of record.queue) pending.push({ name, ...waiter });
    }
    return { held, pending };
  }
}

/** Locks with settings of their own; see index.d.ts. */
export function createLocks(settings) {
  return new Locks(settings);
}

let shared;
const locks = () => (shared ??= new Locks());

export const acquire = (...args) => locks().acquire(...args);
export const tryAcquire = (...args) => locks().tryAcquire(...args);
export const withLease = (...args) => locks().withLease(...args);
export const query = () => locks().query();
