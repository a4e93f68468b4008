// Locks: what callers ask.
import { RawLocks } from "../pkg/tab_lease.js";
import { activated, isPrerendered } from "./activation.js";
import { checkOptions, checkSettings, checkText } from "./arguments.js";
import { bounded } from "./bounded.js";
import { bad, failed, storeError, timedOut, TimeoutError } from "./errors.js";
import { broken } from "./guard.js";
import { behind, leaseOf } from "./lease.js";
import { load } from "./load.js";
import { decodeName, encodeName } from "./names.js";
import { look } from "./signal.js";

/** @import { AcquireOptions, Lease, Locks as Told, LocksSettings } from "./index.js" */
/** @import { Checked, CheckedOptions, Raw, Side } from "./internal.js" */

/** How long after the caller's deadline the wasm may still answer, in ms: its error says more. */
const GRACE_MS = 100;

/** How browsers' consoles name locks. Frameworks that wrap plain objects leave them alone. */
class Locks {
  get [Symbol.toStringTag]() {
    return "Locks";
  }
}

/**
 * The Rust side of some locks, made on first use. `open` resolves when it is there. `lockOf` then gives the
 * lock of a name: one object each, for the life of the page, because it knows when it last held.
 * @param {Checked} settings
 * @returns {Side}
 */
function rustSide({ database, store, connection, vetted, wasm, holder, ...ms }) {
  /** @type {Map<string, ReturnType<Side[1]>>} */
  const known = new Map();
  /** @type {RawLocks} */
  let raw;

  /** @type {Side[0]} */
  async function open(signal, longest, late) {
    if (raw) return raw;
    await bounded(() => load(wasm), signal, longest, late);
    if (!raw) {
      raw = new RawLocks(database, store, holder, ms.leaseMs, ms.heartbeatMs, ms.storeTimeoutMs);
      if (connection) raw = raw.over(connection, /** @type {boolean} */ (vetted));
    }
    return raw;
  }

  /** @type {Side[1]} */
  function lockOf(name) {
    const key = encodeName(name);
    let lock = known.get(key);
    if (!lock) known.set(key, (lock = raw.lock(key)));
    return lock;
  }

  return [open, lockOf, ms.storeTimeoutMs];
}

/**
 * Asks Rust for a lock. Resolves with what Rust gives for a lease.
 * @param {Side} side @param {string} name @param {CheckedOptions} options
 */
async function ask([open, lockOf, storeTimeoutMs], name, { timeout, signal, scope }) {
  if (isPrerendered()) {
    if (timeout === 0) throw timedOut(name, timeout, "nobody has opened this page yet: it is prerendered");
    await bounded(activated, signal);
  }
  const started = performance.now();
  const tooLate = () => (timeout ? timedOut(name, timeout) : storeError("STORE_LOAD_FAILED"));
  // A call that asks once waits for the wasm all the same. A call with a deadline does not outlast it.
  await open(signal, timeout || storeTimeoutMs, tooLate);
  signal?.throwIfAborted();
  const left = timeout && Math.max(timeout - (performance.now() - started), 1);
  let lock = lockOf(name);
  if (scope === "request") lock = lock.apart();
  let call = 0;
  /** @type {Promise<Raw>} */
  const asked = new Promise((resolve, reject) => (call = lock.acquire(left, resolve, reject)));
  try {
    // The call ends when its caller says, even if the wasm never answers.
    return await bounded(() => asked, signal, left ? left + GRACE_MS : undefined, tooLate);
  } catch (error) {
    lock.leave(call);
    // A lease that comes too late is given back.
    asked.then((held) => held.release(() => {})).catch(() => {});
    throw error;
  } finally {
    if (scope === "request") lock.free();
  }
}

/**
 * Runs `callback` while `acquire` holds a lock.
 * @param {Told<any>["acquire"]} acquire @param {string} name @param {any[]} rest
 */
async function hold(acquire, name, rest) {
  const callback = rest.pop();
  if (typeof callback !== "function")
    throw bad(TypeError, "withLease needs a callback, as its last argument");
  const lease = await acquire(name, ...rest);
  try {
    const result = await callback(lease);
    // The section was not protected to its end: its caller must not take it for done.
    behind(lease)?.held.check();
    return result;
  } finally {
    await lease.release();
  }
}

/**
 * What `query` resolves with, of the flat list that src/js.rs gives.
 * @param {any[]} list
 */
function described(list) {
  const held = [];
  const pending = [];
  let at = 0;
  const next = () => list[at++];
  const asked = (/** @type {string} */ name) => ({ name, mode: next(), clientId: next(), since: next() });
  while (at < list.length) {
    const name = decodeName(next());
    if (next()) {
      const [token, leaseMs] = [next(), next()];
      held.push({ ...asked(name), token, leaseMs });
    }
    for (let waiting = next(); waiting > 0; waiting--) pending.push(asked(name));
  }
  return { held, pending };
}

/**
 * Locks with settings of their own; see index.d.ts. As with leases, the members are the object's own and
 * need no `this`.
 * @param {LocksSettings} [settings]
 * @returns {Told<any>}
 */
export function createLocks(settings) {
  const { app, ...checked } = checkSettings(settings);
  const side = rustSide(checked);
  /** Stands for these locks, whatever proxy the object is behind. */
  const self = {};

  /**
   * What Rust gives for a lease that shares the one that the caller says it runs under.
   * @param {string} name @param {CheckedOptions} options
   */
  function share(name, { within, scope }) {
    const found = behind(within);
    if (!found || found.locks !== self || found.held.name !== name) {
      throw bad(TypeError, "within must be a lease of the same name, and of the same locks");
    }
    if (scope === "request") throw bad(TypeError, 'within shares a lease, and scope "request" shares none');
    return found.held.share();
  }

  /**
   * `asking`: a caller that only tries is answered with null, not with a TimeoutError.
   * @param {string} name @param {AcquireOptions | undefined} options
   * @param {string[]} known @param {{ timeout: 0 }} [asking]
   * @returns {Promise<any>}
   */
  async function request(name, options, known, asking) {
    checkText(name, "name");
    const checked = { ...checkOptions(options, known), ...asking };
    const { timeout, signal, within } = checked;
    signal?.throwIfAborted();
    look();
    try {
      if (broken()) throw broken();
      const held = within === undefined ? await ask(side, name, checked) : share(name, checked);
      return leaseOf(name, held, self, app);
    } catch (failure) {
      if (signal?.aborted) throw signal.reason;
      const error = explained(name, timeout, failure);
      if (asking && error instanceof TimeoutError) return null;
      throw error;
    }
  }

  /** @type {Told<any>["acquire"]} */
  const acquire = (name, options) => request(name, options, ["timeout", "signal", "scope", "within"]);
  /** @type {Told<any>["tryAcquire"]} */
  const tryAcquire = (name, options) =>
    request(name, options, ["signal", "scope", "within"], { timeout: 0 });
  /** @type {Told<any>["withLease"]} */
  const withLease = (/** @type {string} */ name, /** @type {any[]} */ ...rest) => hold(acquire, name, rest);

  /** @type {Told["query"]} */
  async function query() {
    look();
    try {
      const [open, , storeTimeoutMs] = side;
      const locks = await open(undefined, storeTimeoutMs, () => storeError("STORE_LOAD_FAILED"));
      return described(await bounded(() => new Promise((resolve, reject) => locks.query(resolve, reject))));
    } catch (failure) {
      throw explained("", undefined, failure);
    }
  }

  return /** @type {any} */ ({ __proto__: Locks.prototype, acquire, tryAcquire, withLease, query });
}

/**
 * What the caller is told of a failure.
 * @param {string} name @param {number | undefined} timeout @param {unknown} failure
 */
const explained = (name, timeout, failure) => broken() ?? failed(name, timeout, failure);

/** @type {Told | undefined} */
let shared;
const locks = () => (shared ??= createLocks());

/** @type {Told["acquire"]} */
export const acquire = (...args) => locks().acquire(...args);
/** @type {Told["tryAcquire"]} */
export const tryAcquire = (...args) => locks().tryAcquire(...args);
/** @type {Told["withLease"]} */
export const withLease = (/** @type {[string, any]} */ ...args) => locks().withLease(...args);
/** @type {Told["query"]} */
export const query = () => locks().query();
