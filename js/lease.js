// A held lock, as JavaScript sees it.
import { bounded } from "./bounded.js";
import { checkTransaction, unwrapped } from "./database.js";
import { bad, failed, LOSSES, lost, quoted } from "./errors.js";
import { broken, whenBroken } from "./guard.js";
import { asked, look, patchSignals, unwatch, watch } from "./signal.js";

/** @import { AnyTransaction, Lease as Told } from "./index.js" */
/** @import { App, Failure, Grip, LossCode, Raw } from "./internal.js" */

/**
 * Releases what was dropped without a release, and says so: it is a bug that would block other tabs.
 * @type {FinalizationRegistry<Held> | undefined}
 */
let collected;

/** @param {Grip} grip @param {Held} held */
function watchCollection(grip, held) {
  collected ??= new FinalizationRegistry((held) => {
    console.warn(
      `tab-lease: a lease of ${quoted(held.name)} was garbage-collected without release(); ` +
        "it is released now",
    );
    held.release();
    held.end("LEASE_COLLECTED");
  });
  collected.register(grip, held, held);
}

/**
 * What is held, and how that ends. A `Held` may outlive its `Lease`. It does not refer to the `Lease`,
 * because then the `Lease` would never be collected.
 */
export class Held {
  /** @param {string} name @param {Raw} raw */
  constructor(name, raw) {
    this.name = name;
    this.raw = raw;
    // They do not change.
    this.token = raw.token;
    this.epoch = raw.epoch;
    this.dirty = raw.dirty;
    /** @type {import("./errors.js").LeaseLostError | undefined} */
    this.error = undefined;
    /** @type {AbortController | undefined} */
    this.controller = undefined;
    /** @type {Promise<void> | undefined} */
    this.released = undefined;
    watch(this);
    new Promise((resolve) => raw.lost(resolve)).then((code) => this.end(code));
  }

  /**
   * It is lost, for that reason, unless there was one before.
   * @param {LossCode} code @param {unknown} [cause]
   */
  end(code, cause) {
    // Nothing is left to be released.
    this.forget();
    this.error ??= lost(this.name, this.token, code, cause);
    this.controller?.abort(this.error);
    return this.error;
  }

  /** The wasm has failed. */
  fail() {
    return this.end("LEASE_BROKEN", broken()?.cause);
  }

  /** Nobody is to be told any more. */
  forget() {
    collected?.unregister(this);
    unwatch(this);
  }

  /** Throws if it is lost, as far as is known. */
  check() {
    look();
    if (this.error) throw this.error;
  }

  /** Throws if it is lost or was released. */
  use() {
    this.check();
    if (this.released) throw lost(this.name, this.token, "LEASE_RELEASED");
  }

  /** Made when it is first read, so that no caller that waits for a lease waits for its signal as well. */
  get signal() {
    if (!this.controller) {
      patchSignals();
      this.controller = new AbortController();
      asked(this.controller.signal, look);
      if (this.error) this.controller.abort(this.error);
    }
    return this.controller.signal;
  }

  release() {
    if (!this.released) {
      this.forget();
      // It does not fail: a lease that cannot be released any more expires.
      /** @param {(value: void) => void} resolve */
      const release = (resolve) => this.raw.release(resolve);
      const released = () => new Promise(release);
      this.released = bounded(released).catch(() => {});
    }
    return this.released;
  }

  /** What Rust has given for a second lease that shares the lock with this one. */
  share() {
    this.use();
    try {
      return this.raw.share();
    } catch (failure) {
      throw broken() ?? this.end(/** @type {any} */ (failure).code);
    }
  }

  /**
   * Fences a transaction of the platform's; resolves when the check has passed.
   * @param {IDBTransaction} transaction @param {boolean} reads
   */
  fence(transaction, reads) {
    /** @type {(failure?: Failure) => void} */
    let settle = () => {};
    /** @type {Promise<void>} */
    const checked = new Promise((resolve, reject) => {
      const fail = () => {
        // Nobody will check it.
        undo(transaction);
        reject(this.fail());
      };
      whenBroken.add(fail);
      settle = (failure) => {
        whenBroken.delete(fail);
        if (failure) reject(this.failed(failure));
        else resolve();
      };
    });
    try {
      this.raw.fence(transaction, reads, settle);
    } catch (failure) {
      settle();
      throw broken() ? this.fail() : this.failed(/** @type {Failure} */ (failure));
    }
    return checked;
  }

  /** Makes the documented error of why a transaction was not fenced. @param {Failure} failure */
  failed(failure) {
    const { code, detail, cause } = failure;
    if (code === "UNFIT") return bad(TypeError, `the transaction cannot be fenced: ${detail}`);
    if (code === "ABORTED") return cause;
    if (!(code in LOSSES)) return failed(this.name, undefined, failure);
    // The signal is aborted now, not when the loss gets here by its own way.
    return this.end(/** @type {LossCode} */ (code));
  }
}

/** @param {IDBTransaction} transaction */
function undo(transaction) {
  try {
    transaction.abort();
  } catch {
    // It is over.
  }
}

/**
 * Runs `callback` in a fenced transaction of the app's database.
 * @template T
 * @param {Held} held @param {App | undefined} app
 * @param {string | Iterable<string>} stores @param {"readonly" | "readwrite"} mode
 * @param {(tx: any) => T | PromiseLike<T>} callback
 */
async function transact(held, app, stores, mode, callback) {
  if (mode !== "readonly" && mode !== "readwrite")
    throw bad(TypeError, 'mode must be "readonly" or "readwrite"');
  if (typeof callback !== "function")
    throw bad(TypeError, "transaction needs a callback, as its last argument");
  if (!app)
    throw bad(TypeError, "the leases are not in a database of yours: see createLocks({ database: db })");
  held.use();
  const transaction = app.transaction(stores, mode);
  const raw = unwrapped(transaction);
  // What idb promises beside it. A failure is told by the promise of this function.
  transaction.done?.catch(() => {});
  const over = new Promise((resolve, reject) => {
    raw.addEventListener("complete", resolve);
    raw.addEventListener("abort", () =>
      reject(raw.error ?? new DOMException("the transaction was aborted", "AbortError")),
    );
  });
  try {
    const checked = held.fence(raw, mode === "readonly");
    const run = (async () => callback(transaction))();
    run.catch(() => undo(raw));
    // What fails first is the reason.
    const [value] = await Promise.all([run, checked, over]);
    return value;
  } catch (error) {
    undo(raw);
    over.catch(() => {});
    throw error;
  }
}

/** A member that says what is behind a lease: called, since what a Proxy returns may be one itself. */
const TELL = Symbol("tab-lease");
/** @type {Grip | undefined} */
let grip;

/**
 * What is behind that lease, or that Proxy of one: the `Held`, and the locks that it is of.
 * @param {any} lease
 */
export function behind(lease) {
  lease?.[TELL]?.();
  const told = grip;
  // Nothing here may keep a lease from being collected.
  grip = undefined;
  return told;
}

/** Members that are asked, not called. One set for all leases: functions for each would take longer. */
const ASKED = Object.fromEntries(
  ["token", "epoch", "dirty", "signal"].map((member) => [
    member,
    {
      configurable: true,
      enumerable: true,
      get() {
        // What is asked of a lease that has run out is answered after its signal was aborted.
        look();
        return Reflect.get(/** @type {Grip} */ (behind(this)).held, member);
      },
    },
  ]),
);

/** How browsers' consoles name a lease. Frameworks that wrap plain objects leave it alone. */
class Lease {
  get [Symbol.toStringTag]() {
    return "Lease";
  }
}

/**
 * Makes the lease of what Rust has given. Its members are its own, and work behind proxies (in the state of
 * Vue, Alpine and others); its functions need no `this`, and can be passed on (`const { release } = lease`).
 *
 * Each function keeps `mine`, and nothing else does: what is garbage-collected is a lease of which not even
 * one function can be called any more.
 *
 * @param {string} name @param {Raw} raw @param {object} locks @param {App | undefined} app
 * @returns {Told<any>}
 */
export function leaseOf(name, raw, locks, app) {
  const mine = { held: new Held(name, raw), locks };
  watchCollection(mine, mine.held);
  const held = () => (look(), mine.held);
  const lease = /** @type {any} */ (new Lease());
  lease.name = name;
  Object.defineProperties(lease, ASKED);
  lease.fence = (/** @type {AnyTransaction} */ transaction) => {
    held().use();
    const checked = mine.held.fence(checkTransaction(transaction), false);
    // A caller that ignores this promise hears of the loss from the transaction, and from the signal.
    checked.catch(() => {});
    return checked;
  };
  /** @type {Told<any>["transaction"]} */
  lease.transaction = (stores, mode, callback) => transact(held(), app, stores, mode, callback);
  lease.release = () => held().release();
  lease[Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")] = () => held().release();
  lease[TELL] = () => void (grip = mine);
  return lease;
}
