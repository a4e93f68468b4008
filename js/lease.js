// A held lock, as JavaScript sees it.
import { bounded } from "./bounded.js";
import { checkTransaction, unwrapped } from "./database.js";
import { bad, failed, LOSSES, lost, quoted } from "./errors.js";
import { broken, whenBroken } from "./guard.js";
import { asked, look, patchSignals, unwatch, watch } from "./signal.js";

/** Releases what was dropped without a release, and says so: it is a bug that would block other tabs. */
let collected;

function watchCollection(grip, held) {
  collected ??= new FinalizationRegistry((held) => {
    console.warn(`tab-lease: a lease of ${quoted(held.name)} was garbage-collected without release(); it is released now`);
    held.release();
    held.end("LEASE_COLLECTED");
  });
  collected.register(grip, held, held);
}

/**
 * What is held, and how that ends. It may outlive its `Lease`, which it does not refer to: else that
 * would never be collected.
 */
class Held {
  constructor(name, raw) {
    this.name = name;
    this.raw = raw;
    // They do not change.
    this.token = raw.token;
    this.epoch = raw.epoch;
    this.dirty = raw.dirty;
    watch(this);
    new Promise((resolve) => raw.lost(resolve)).then((code) => this.end(code));
  }

  /** It is lost, for that reason, unless there was one before. */
  end(code, cause) {
    // Nothing is left to be released.
    this.forget();
    this.error ??= lost(this.name, this.token, code, cause);
    this.controller?.abort(this.error);
    return this.error;
  }

  /** The wasm has failed. */
  fail() {
    return this.end("LEASE_BROKEN", broken().cause);
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

  /** Made when it is first asked for: whoever waits for a lease should not wait for that as well. */
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
      // It does not fail: what cannot be released any more lapses by itself.
      this.released = bounded(() => new Promise((resolve) => this.raw.release(resolve))).catch(() => {});
    }
    return this.released;
  }

  /** What Rust has given for a second lease that shares the lock with this one. */
  share() {
    this.use();
    try {
      return this.raw.share();
    } catch (failure) {
      throw broken() ?? this.end(failure.code);
    }
  }

  /** Fences a transaction of the platform's; resolves when the check has passed. */
  fence(transaction, reads) {
    let settle;
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
      throw broken() ? this.fail() : this.failed(failure);
    }
    return checked;
  }

  /** Makes the documented error of why a transaction was not fenced. */
  failed(failure) {
    const { code, detail, cause } = failure;
    if (code === "UNFIT") return bad(TypeError, `the transaction cannot be fenced: ${detail}`);
    if (code === "ABORTED") return cause;
    if (!(code in LOSSES)) return failed(this.name, undefined, failure);
    // Now, not when the loss gets here by its own way.
    return this.end(code);
  }
}

function undo(transaction) {
  try {
    transaction.abort();
  } catch {
    // It is over.
  }
}

/** Runs `callback` in a fenced transaction of the app's database. */
async function transact(held, app, stores, mode, callback) {
  if (mode !== "readonly" && mode !== "readwrite") throw bad(TypeError, 'mode must be "readonly" or "readwrite"');
  if (typeof callback !== "function") throw bad(TypeError, "transaction needs a callback, as its last argument");
  if (!app) throw bad(TypeError, "the leases are not in a database of yours: see createLocks({ database: db })");
  held.use();
  const transaction = app.transaction(stores, mode);
  const raw = unwrapped(transaction);
  // Of what idb promises beside; it is told here.
  transaction.done?.catch(() => {});
  const over = new Promise((resolve, reject) => {
    raw.addEventListener("complete", resolve);
    raw.addEventListener("abort", () => reject(raw.error ?? new DOMException("the transaction was aborted", "AbortError")));
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
let grip;

/** What is behind that lease, or that Proxy of one: the `Held`, and the locks that it is of. */
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
        return behind(this).held[member];
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
 */
export function leaseOf(name, raw, locks, app) {
  const mine = { held: new Held(name, raw), locks };
  watchCollection(mine, mine.held);
  const held = () => (look(), mine.held);
  const lease = new Lease();
  lease.name = name;
  Object.defineProperties(lease, ASKED);
  lease.fence = (transaction) => {
    held().use();
    const checked = mine.held.fence(checkTransaction(transaction), false);
    // Whoever does not look hears of it from the transaction, and from the signal.
    checked.catch(() => {});
    return checked;
  };
  lease.transaction = (...args) => transact(held(), app, ...args);
  lease.release = () => held().release();
  lease[Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")] = () => held().release();
  lease[TELL] = () => void (grip = mine);
  return lease;
}
