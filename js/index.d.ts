/**
 * Cross-tab locks on leases kept in IndexedDB: exclusive among all tabs and workers of an origin,
 * fenced by a token, and released by themselves when a tab crashes or hangs.
 *
 * Nothing needs to be initialised: the first call loads the wasm. `tab-lease` (and `tab-lease/inline`, which
 * is the same) brings it along as text. `tab-lease/lean` fetches it as a file.
 *
 * @example
 * const lease = await acquire("inbox", { timeout: 5_000 });
 * try {
 *   if (lease.dirty) await reloadCaches();
 *   await writeInbox({ token: lease.token });
 * } finally {
 *   await lease.release();
 * }
 */

/** What every call that may wait takes. */
export interface TryOptions {
  /** Cancels the call: it rejects with the signal's `reason`, and holds nothing. */
  signal?: AbortSignal;
  /**
   * With `"tab"`, the default, callers in one tab share the lock. With `"request"` this call shares the lock
   * with no other call, and takes turns with every other call, in this tab and in others.
   */
  scope?: "tab" | "request";
  /**
   * The lease that the caller runs under, for code under a lock that takes the same lock again. The call
   * shares that lease at once, even if other tabs wait, and even if its scope is `"request"`. The lease must
   * be of the same name and from the same {@link Locks}. The lock is free when all leases that share it are
   * released.
   *
   * The call rejects with {@link LeaseLostError} if that lease is lost or was released.
   * @example
   * await withLease("inbox", async (lease) => {
   *   await withLease("inbox", { within: lease }, save);
   * });
   */
  within?: Lease<unknown>;
}

/** What a call that waits takes. */
export interface AcquireOptions extends TryOptions {
  /**
   * A deadline for the whole call, in ms, after which the call rejects with {@link TimeoutError}. Without a
   * deadline, or with `Infinity`, the call waits for as long as it takes. With `0` it asks once. In a
   * prerendered page the time runs from the moment when the page is opened.
   */
  timeout?: number;
}

/**
 * A transaction of IndexedDB: the platform's `IDBTransaction`, one of `idb`'s, or one of Dexie's (inside
 * of `db.transaction(…)`).
 */
export type AnyTransaction = IDBTransaction | { readonly mode: IDBTransactionMode; abort(): void };

/** An open database: the platform's `IDBDatabase`, one of `idb`'s, or a Dexie that is open. */
export type AnyDatabase = IDBDatabase | { readonly name: string; close(...options: never[]): void };

/**
 * What `await using lease = await acquire(…)` calls at the end of its block: a release. The type has it only
 * where TypeScript compiles with the library `esnext.disposable`.
 */
export type ReleasedByUsing = SymbolConstructor extends { readonly asyncDispose: infer Key extends symbol }
  ? { [_ in Key]: () => Promise<void> }
  : {};

/**
 * A held lock. It stays held, renewed by a heartbeat, until it is released, lost, or
 * garbage-collected (which releases it and warns on the console). Callers in one tab share the
 * lock, unless they ask for `scope: "request"`. Each caller has a lease of its own, and the lock is free when
 * the last of these leases is released.
 *
 * Its members need no `this`: they can be passed on (`const { release } = lease`), and the lease can be
 * kept in reactive state, behind a Proxy.
 */
export interface Lease<Transaction = IDBTransaction> extends ReleasedByUsing {
  /** The name that was asked for. */
  readonly name: string;
  /**
   * The fencing token: a safe integer that grows at every change of hands. Store it beside what you
   * write, and refuse writes with a lower one.
   *
   * It counts the holders of this lock in one browser profile and origin. Tokens of two profiles, or from
   * before and after the site's data was deleted, have nothing to do with each other: see {@link epoch}.
   */
  readonly token: number;
  /**
   * Which series of tokens {@link token} is of: a random safe integer that names this lock in this browser
   * profile and origin, until the site's data is deleted. Tokens are ordered only within one epoch. So
   * `epoch` and `token` go to a server together, and it compares the tokens of equal epochs only.
   */
  readonly epoch: number;
  /**
   * Whether another holder had the lock since this tab last did. If true, this tab's caches of the protected
   * data are out of date. In a tab that never held the lock: true, unless no tab ever did. Never false if
   * another tab held. True without need only where a hand-over was lost on its way.
   */
  readonly dirty: boolean;
  /**
   * Aborted with a {@link LeaseLostError} when the lease is lost. The protected data must not be written from
   * then on. A release does not abort the signal.
   */
  readonly signal: AbortSignal;
  /**
   * Fences a readwrite transaction of the database that this lease is in
   * (see {@link LocksSettings.database}). Its scope must include the lease store ({@link LEASE_STORE}, or the
   * name that was given). Unless the lease is current when the transaction runs, the transaction aborts, with
   * everything that was and will be asked of it: a tab that slept through its lease writes nothing.
   *
   * The check is a request of its own. The caller need not wait for it; a `commit()` does.
   *
   * @returns a promise of the check, which may be ignored: the transaction and the `signal` tell as well.
   * @throws {LeaseLostError} the lease is not current, and the signal is aborted with that error. Thrown at
   * once if the lease is known to be lost or was released. In all other cases the promise rejects.
   * @throws {TypeError} at once, before anything is queued: the transaction is of another database, does not
   * include the lease store, is readonly, finished, or not active at the moment.
   * @throws {StoreError} the lease record is damaged (`STORE_CORRUPT`); the transaction aborts.
   * @throws the transaction's own error, by the promise, if it was aborted before it was checked.
   * @example
   * const tx = db.transaction(["notes", LEASE_STORE], "readwrite");
   * lease.fence(tx);
   * tx.objectStore("notes").put(text, key); // committed only if the lease is current
   */
  fence(transaction: AnyTransaction): Promise<void>;
  /**
   * Opens a transaction over these stores and the lease store, {@link fence | fences} it, and runs
   * `callback` in it. Resolves with the callback's value once it is committed. A readonly one gives a
   * consistent read under the lease.
   *
   * While the callback runs, await nothing but requests of the transaction, or it commits early. It is
   * aborted if the callback throws. Nothing is retried. A transaction may take as long as `storeTimeoutMs`:
   * see the README.
   *
   * @param callback gets the transaction as the database makes it: one of `idb`'s, if that opened it. (From
   * Dexie, the platform's.)
   * @throws {LeaseLostError} the lease is not current: nothing was written.
   * @throws what the callback threw, or the transaction's own error: nothing was written.
   * @throws {TypeError} the leases are not in a database of the app's.
   * @example
   * const count = await lease.transaction("notes", "readwrite", async (tx) => {
   *   tx.objectStore("notes").put(text, key);
   *   return result(tx.objectStore("notes").count()); // a promise of a request's result
   * });
   */
  transaction<T>(
    stores: string | Iterable<string>,
    mode: "readonly" | "readwrite",
    callback: (tx: Transaction) => T | PromiseLike<T>,
  ): Promise<T>;
  /**
   * Releases the lease. Resolves when the next tab can have the lock: it was handed to the one that has
   * waited longest, or stays with this tab for a heartbeat, where taking it again costs nothing and
   * another tab's call ends that at once. Never rejects: if IndexedDB cannot be told, the lease lapses by
   * itself. A second call changes nothing.
   */
  release(): Promise<void>;
}

/** What is known of one holder or waiter, as in `navigator.locks.query()`. */
export interface LockInfo {
  /** The lock's name. */
  name: string;
  /** How it is held, or wanted. */
  mode: "exclusive";
  /** The tab or worker: its `holder` name, `#`, and a part that no two tabs share. */
  clientId: string;
  /** Wall clock since which it holds or waits, in ms since 1970. For people; it may be off. */
  since: number;
}

/** One held lock. */
export interface HeldLockInfo extends LockInfo {
  /** The fencing token it is held with. */
  token: number;
  /** The length of its lease, in ms. */
  leaseMs: number;
}

/**
 * The holders and the waiters, as recorded. A tab that crashed is still listed until its lease has been
 * taken over, and one that released the lock with nobody waiting for up to a heartbeat.
 */
export interface LockManagerSnapshot {
  /** The holders, one entry a name. */
  held: HeldLockInfo[];
  /** The waiters, in order of arrival for each name. */
  pending: LockInfo[];
}

/** Settings for {@link createLocks}. */
export interface LocksSettings {
  /**
   * The database that holds the leases: the name of one of their own, which is created if missing (default:
   * `"tab-lease"`), or an open one of the app's with a lease store in it (see {@link addLeaseStore}). Then
   * `lease.fence` and `lease.transaction` work. The connection stays the app's: it is not closed here, its
   * handlers are not touched, and once it is closed calls fail with `STORE_CLOSED`.
   *
   * A store of that name that is not a lease store is a `TypeError`. Where a Dexie schema made it without
   * the mark (see {@link LEASE_SCHEMA}), the first call reads what is in it, and rejects with that
   * `TypeError` unless all of it is leases.
   */
  database?: string | AnyDatabase;
  /**
   * The name of the lease store in that database, where it is not {@link LEASE_STORE}: what was given to
   * {@link addLeaseStore}.
   */
  store?: string;
  /**
   * A name for this tab, for people who read {@link query}. Two tabs with one name are told apart
   * all the same. Default: `"tab"`.
   */
  holder?: string;
  /**
   * How long a lease is good without a renewal, in whole ms, from 10 to 600 000: how long those who wait
   * wait on after this tab hung, or crashed where there are no Web Locks to tell them. Default: 500.
   *
   * While nobody waits, and where there are Web Locks, a lease grows to about as long as nobody has waited,
   * up to 20 000 ms; the first tab that waits brings `leaseMs` back at once. So a tab that hangs with nobody
   * waiting yet keeps the lock from one that comes later for that long. So does one that crashes, if no tab
   * that lives has met it before. If the same tab is next for four times `leaseMs`, the lease grows to that
   * length, until another tab is next. In a hidden tab a lease is at least 10 000 ms long, because its timers
   * are late.
   */
  leaseMs?: number;
  /**
   * How often it is renewed while somebody waits, in whole ms, below `leaseMs`. Default: a tenth of
   * `leaseMs`. A lease that has grown is renewed three times within its length.
   */
  heartbeatMs?: number;
  /**
   * How long IndexedDB may take for one command, in ms, before it fails with `STORE_STALLED`. Default:
   * 10 000.
   */
  storeTimeoutMs?: number;
  /** Where these locks load the wasm from, if none is loaded yet. Default: what {@link setWasm} was given. */
  wasm?: WasmSource;
}

/**
 * What the wasm can be loaded from: the URL of `tab_lease_bg.wasm` (a string is relative to the page), a
 * response to a request for it, its bytes, or a compiled module. It must be of the same version of the
 * package.
 */
export type WasmSource = WasmInput | PromiseLike<WasmInput>;
/** See {@link WasmSource}. (`object`, because the platform's declaration of a module is one of anything.) */
export type WasmInput =
  string | URL | Response | ArrayBuffer | ArrayBufferView | (WebAssembly.Module & object);

/** Locks with settings of their own. */
export interface Locks<Transaction = IDBTransaction> {
  /** See {@link acquire}. */
  acquire(name: string, options?: AcquireOptions): Promise<Lease<Transaction>>;
  /** See {@link tryAcquire}. */
  tryAcquire(name: string, options?: TryOptions): Promise<Lease<Transaction> | null>;
  /** See {@link withLease}. */
  withLease<T>(name: string, callback: (lease: Lease<Transaction>) => T | PromiseLike<T>): Promise<T>;
  /** See {@link withLease}. */
  withLease<T>(
    name: string,
    options: AcquireOptions | undefined,
    callback: (lease: Lease<Transaction>) => T | PromiseLike<T>,
  ): Promise<T>;
  /** See {@link query}. */
  query(): Promise<LockManagerSnapshot>;
}

/**
 * Waits until this tab holds the lock.
 *
 * Calls of one tab share the lock. While another tab waits for it, a new call is held back until the lock
 * has been there, but for 250 ms at most. Each time that this pause runs out while the same tab waits, the
 * next one is twice as long, up to 32 000 ms. Code under the lock that takes it again passes `within`, and
 * is not held back.
 *
 * @param name any string but the empty one.
 * @throws {TimeoutError} the `timeout` is over.
 * @throws {StoreError} IndexedDB failed.
 * @throws the `signal`'s reason, if it is or gets aborted.
 * @throws {TypeError | RangeError} a bad argument (`code: "BAD_ARGUMENT"`), before anything is touched.
 * @example
 * await using lease = await acquire("inbox", { timeout: 5_000 });
 */
export function acquire(name: string, options?: AcquireOptions): Promise<Lease>;

/**
 * Takes the lock if it is free, or held by this tab already and wanted by no other. Never waits for another
 * holder. In a page that is prerendered, and that nobody has opened yet, the answer is `null`.
 *
 * The lock of a tab that crashed is taken over at once where there are Web Locks, if this tab has met that
 * tab while it lived. In all other cases its lease counts as held until this tab has seen it stand still for
 * its whole length. So try again after that.
 *
 * @returns the lease, or `null` if another tab holds it, or waits for it.
 * @throws as {@link acquire}, without the timeout.
 * @example
 * const lease = await tryAcquire("sync");
 * if (lease === null) return; // another tab is at it
 */
export function tryAcquire(name: string, options?: TryOptions): Promise<Lease | null>;

/**
 * Runs `callback` while holding the lock, and releases it however the callback ends.
 *
 * What the lock protects must be where the next holder sees it at once, and each write must be awaited:
 * IndexedDB, the Cache API, files or a server. Not `localStorage` or `document.cookie`: what a tab writes
 * there reaches other tabs late, under any lock.
 *
 * @returns what the callback returned.
 * @throws what the callback threw.
 * @throws {LeaseLostError} the callback returned, but the lease was lost before that.
 * @throws as {@link acquire}.
 * @example
 * const sum = await withLease("counter", async (lease) => {
 *   const next = (await read()) + 1;
 *   lease.signal.throwIfAborted();
 *   await write(next);
 *   return next;
 * });
 */
export function withLease<T>(name: string, callback: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
export function withLease<T>(
  name: string,
  options: AcquireOptions | undefined,
  callback: (lease: Lease) => T | PromiseLike<T>,
): Promise<T>;

/**
 * The holders and the waiters, in all tabs.
 *
 * @throws {StoreError} IndexedDB failed.
 * @example
 * const { held, pending } = await query();
 */
export function query(): Promise<LockManagerSnapshot>;

/**
 * Locks with settings of their own. Locks of different databases have nothing to do with each other;
 * callers in one tab share a lock only through one `Locks` object.
 *
 * @throws {TypeError | RangeError} a bad setting, at once.
 * @example
 * const locks = createLocks({ leaseMs: 5_000, holder: "editor" });
 * const lease = await locks.acquire("document 7");
 * @example
 * const database = await openDB<Notes>("app", 2, …);
 * const locks = createLocks<IDBPTransaction<Notes, string[], "readwrite">>({ database });
 */
export function createLocks<Transaction = IDBTransaction>(settings?: LocksSettings): Locks<Transaction>;

/**
 * Says where the wasm is loaded from, for every call on this page that does not say otherwise (see
 * {@link LocksSettings.wasm}). Nothing is loaded before the first call that needs it.
 *
 * The last source given before that counts. A page has one wasm: once it is loaded, further sources are
 * ignored. While a first source is still loading, calls with another load that as well, and whichever arrives
 * first serves all.
 *
 * A source that fails is not replaced by another. The call fails with `STORE_LOAD_FAILED`, and the next one
 * tries the same source again. That is of no use with a `Response`, which can be read only once: give a new
 * one. Bytes are not copied: leave them as they are.
 *
 * @throws {TypeError} it is none of these (`code: "BAD_ARGUMENT"`), at once.
 * @example
 * import { setWasm } from "tab-lease/lean";
 * setWasm("/assets/tab_lease_bg.wasm");
 */
export function setWasm(source: WasmSource): void;

/**
 * The name of the object store that holds the leases, unless another is given: for the scope of transactions
 * that are to be fenced.
 */
export const LEASE_STORE: "leases";

/**
 * The lease store in a schema of Dexie's:
 * `db.version(2).stores({ notes: "++id", [LEASE_STORE]: LEASE_SCHEMA })`.
 * It includes the mark by which {@link addLeaseStore}'s stores are known: an index that is always empty.
 */
export const LEASE_SCHEMA: ",tab_lease";

/** What {@link addLeaseStore} takes. */
export interface LeaseStoreOptions {
  /**
   * Another name than {@link LEASE_STORE}, for an app that has a store of that name. Give it to `createLocks`
   * as `store`, too.
   */
  name?: string;
}

/**
 * Adds the lease store to a database of the app's, in its upgrade (`onupgradeneeded`, or the `upgrade` of
 * `idb`). Does nothing if it is there. For Dexie, name it in the schema instead: see {@link LEASE_SCHEMA}.
 *
 * @throws {TypeError} the app has another store of that name, which was not touched; or the database is not
 * being upgraded.
 * @example
 * request.onupgradeneeded = () => addLeaseStore(request.result);
 */
export function addLeaseStore(database: AnyDatabase, options?: LeaseStoreOptions): void;

/** The lock was not to be had within the caller's `timeout`. Nothing is held. */
export class TimeoutError extends Error {
  readonly name: "TimeoutError";
  readonly code: "TIMEOUT";
}

/** The lease ended under its holder: what it protects must not be written any more. */
export class LeaseLostError extends Error {
  readonly name: "LeaseLostError";
  /**
   * - `LEASE_SUPERSEDED`: another tab has taken over, or the lease record was deleted;
   * - `LEASE_EXPIRED`: this tab could not renew in time (suspended, throttled, too busy);
   * - `LEASE_STORE_FAILED`: IndexedDB failed for longer than the lease;
   * - `LEASE_SUSPENDED`: this page was frozen, or left for the back-forward cache; it let go before;
   * - `LEASE_STORE_CLOSED`: the database was deleted or cleared, or upgraded by another version of the app;
   * - `LEASE_COLLECTED`: the lease was garbage-collected without `release()`;
   * - `LEASE_BROKEN`: the package itself failed on this page (see `STORE_BROKEN`); `cause` is why;
   * - `LEASE_RELEASED`: it was released before; only of `fence` and `transaction`.
   */
  readonly code:
    | "LEASE_SUPERSEDED"
    | "LEASE_EXPIRED"
    | "LEASE_STORE_FAILED"
    | "LEASE_SUSPENDED"
    | "LEASE_STORE_CLOSED"
    | "LEASE_COLLECTED"
    | "LEASE_BROKEN"
    | "LEASE_RELEASED";
  /** The fencing token of the lost lease. */
  readonly token: number;
  /** The exception, with `LEASE_BROKEN`. */
  readonly cause?: unknown;
}

/** IndexedDB, or the package's own wasm, was not to be had. Nothing is held. */
export class StoreError extends Error {
  readonly name: "StoreError";
  /**
   * - `STORE_UNAVAILABLE`: no IndexedDB here, or it is refused, by whatever error (`cause`);
   * - `STORE_BLOCKED`: another tab keeps the database from being upgraded;
   * - `STORE_FOREIGN`: the database of that name holds something else than leases;
   * - `STORE_CLOSED`: the database that was given to `createLocks` was closed;
   * - `STORE_STALLED`: no answer within `storeTimeoutMs`;
   * - `STORE_CORRUPT`: the lease record is damaged or not ours; it is left as it is;
   * - `STORE_FAILED`: reading or writing failed, or the disk is full;
   * - `STORE_LOAD_FAILED`: the wasm could not be loaded, or the page's content security policy refused it;
   *   the next call tries again;
   * - `STORE_BROKEN`: an exception has ended the wasm on this page, most likely one of a browser function
   *   that was replaced; all later calls fail with this, until the page is reloaded.
   */
  readonly code:
    | "STORE_UNAVAILABLE"
    | "STORE_BLOCKED"
    | "STORE_FOREIGN"
    | "STORE_CLOSED"
    | "STORE_STALLED"
    | "STORE_CORRUPT"
    | "STORE_FAILED"
    | "STORE_LOAD_FAILED"
    | "STORE_BROKEN";
  /** The browser's error, where there is one. */
  readonly cause?: unknown;
}
