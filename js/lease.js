// A held lock, as JavaScript sees it.
import { checkTransaction, unwrapped } from "./database.js";
import { bad, failed, LOSSES, lost, quoted } from "./errors.js";
import { asked } from "./signal.js";

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

export class Lease {
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
    const transaction = this.#app.transaction(stores, mode);
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
