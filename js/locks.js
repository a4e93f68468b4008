// Locks: what callers ask, and who answers.
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

/** How long after the caller's deadline the wasm may still answer, in ms: it knows better why. */
const GRACE_MS = 100;

/** How browsers' consoles name locks. Frameworks that wrap plain objects leave them alone. */
class Locks {
  get [Symbol.toStringTag]() {
    return "Locks";
  }
}

/**
 * Locks with settings of their own; see index.d.ts. As with leases, the members are the object's own and
 * need no `this`.
 */
export function createLocks(settings) {
  const checked = checkSettings(settings);
  const { database, store, connection, vetted, app, wasm } = checked;
  const { holder, leaseMs, heartbeatMs, storeTimeoutMs } = checked;
  /** Stands for these locks, whatever proxy the object is behind. */
  const self = {};
  const known = new Map();
  let raw;

  /** The Rust side, made on first use. */
  async function open(signal, ms, late) {
    if (raw) return raw;
    await bounded(() => load(wasm), signal, ms, late);
    if (!raw) {
      raw = new RawLocks(database, store, holder, leaseMs, heartbeatMs, storeTimeoutMs);
      if (connection) raw = raw.over(connection, vetted);
    }
    return raw;
  }

  /** The lock of a name. One object each, for the life of the page: it knows when it last held. */
  function lockOf(raw, name) {
    const key = encodeName(name);
    let lock = known.get(key);
    if (!lock) known.set(key, (lock = raw.lock(key)));
    return lock;
  }

  async function ask(name, { timeout, signal, scope }) {
    if (isPrerendered()) {
      if (timeout === 0) throw timedOut(name, timeout, "nobody has opened this page yet: it is prerendered");
      await bounded(activated, signal);
    }
    const started = performance.now();
    const tooLate = () => (timeout ? timedOut(name, timeout) : storeError("STORE_LOAD_FAILED"));
    // Asking once includes loading what asks; waiting does not outlast its deadline for it.
    const locks = await open(signal, timeout || storeTimeoutMs, tooLate);
    signal?.throwIfAborted();
    const left = timeout && Math.max(timeout - (performance.now() - started), 1);
    let lock = lockOf(locks, name);
    if (scope === "request") lock = lock.apart();
    let call;
    let asked;
    try {
      asked = new Promise((resolve, reject) => (call = lock.acquire(left, resolve, reject)));
      // Whatever becomes of the wasm, the call ends when its caller says.
      const held = await bounded(() => asked, signal, left ? left + GRACE_MS : undefined, tooLate);
      return leaseOf(name, held, self, app);
    } catch (error) {
      lock.leave(call);
      // It may have come all the same, too late: then it is given back.
      asked.then((held) => held.release()).catch(() => {});
      throw error;
    } finally {
      if (scope === "request") lock.free();
    }
  }

  /** Shares the lease of a caller that says that it runs under it. */
  function share(name, { within, scope }) {
    const found = behind(within);
    if (found?.locks !== self || found.held.name !== name) {
      throw bad(TypeError, "within must be a lease of the same name, and of the same locks");
    }
    if (scope === "request") throw bad(TypeError, 'within shares a lease, and scope "request" shares none');
    return leaseOf(name, found.held.share(), self, app);
  }

  /** `asking`: who only tries is answered with null, not with a TimeoutError. */
  async function request(name, options, known, asking) {
    checkText(name, "name");
    const checked = { ...checkOptions(options, known), ...asking };
    const { timeout, signal, within } = checked;
    signal?.throwIfAborted();
    look();
    try {
      if (broken()) throw broken();
      // `await`: to return a promise as it is takes two turns more.
      return within === undefined ? await ask(name, checked) : share(name, checked);
    } catch (failure) {
      if (signal?.aborted) throw signal.reason;
      const error = explained(name, timeout, failure);
      if (asking && error instanceof TimeoutError) return null;
      throw error;
    }
  }

  const acquire = (name, options) => request(name, options, ["timeout", "signal", "scope", "within"]);
  const tryAcquire = (name, options) => request(name, options, ["signal", "scope", "within"], { timeout: 0 });

  async function withLease(name, ...rest) {
    const callback = rest.pop();
    if (typeof callback !== "function") throw bad(TypeError, "withLease needs a callback, as its last argument");
    const lease = await acquire(name, ...rest);
    try {
      const result = await callback(lease);
      // The section was not protected to its end: its caller must not take it for done.
      behind(lease).held.check();
      return result;
    } finally {
      await lease.release();
    }
  }

  async function query() {
    look();
    const held = [];
    const pending = [];
    try {
      const locks = await open(undefined, storeTimeoutMs, () => storeError("STORE_LOAD_FAILED"));
      const list = await bounded(() => new Promise((resolve, reject) => locks.query(resolve, reject)));
      let at = 0;
      const next = () => list[at++];
      const asked = (name) => ({ name, mode: next(), clientId: next(), since: next() });
      // As src/js.rs lists it.
      while (at < list.length) {
        const name = decodeName(next());
        if (next()) {
          const [token, leaseMs] = [next(), next()];
          held.push({ ...asked(name), token, leaseMs });
        }
        for (let waiting = next(); waiting > 0; waiting--) pending.push(asked(name));
      }
    } catch (failure) {
      throw explained("", undefined, failure);
    }
    return { held, pending };
  }

  return { __proto__: Locks.prototype, acquire, tryAcquire, withLease, query };
}

/** What the caller is told of a failure. */
const explained = (name, timeout, failure) => broken() ?? failed(name, timeout, failure);

let shared;
const locks = () => (shared ??= createLocks());

export const acquire = (...args) => locks().acquire(...args);
export const tryAcquire = (...args) => locks().tryAcquire(...args);
export const withLease = (...args) => locks().withLease(...args);
export const query = () => locks().query();
