// Locks: what callers ask, and who answers.
import { RawLocks } from "../pkg/tab_lease.js";
import { checkOptions, checkSettings, checkText } from "./arguments.js";
import { bounded } from "./bounded.js";
import { bad, failed, storeError, TimeoutError } from "./errors.js";
import { Lease } from "./lease.js";
import { load } from "./load.js";
import { decodeName, encodeName } from "./names.js";

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
    await bounded(load(this.#settings.wasm), signal, ms, late);
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
