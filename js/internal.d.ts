// What js/ names in its own types, beside index.d.ts. For `tsc`, which checks these files against both.
import type { RawLease, RawLock, RawLocks } from "../pkg/tab_lease.js";
import type { Lease, LeaseLostError, StoreError, WasmInput, WasmSource } from "./index.js";

/** What Rust rejects or throws: an error's code, and what there is to say with it. */
export interface Failure {
  code: string;
  detail?: string;
  cause?: unknown;
}

export type LossCode = LeaseLostError["code"];
export type FailureCode = StoreError["code"];

/** A database of the app's, as the app has it. */
export interface App {
  transaction(
    stores: string | Iterable<string>,
    mode: IDBTransactionMode,
  ): IDBTransaction & { done?: Promise<void> };
}

/** Settings that were checked, with the defaults put in. */
export interface Checked {
  database: string;
  store: string;
  holder: string;
  leaseMs: number;
  heartbeatMs: number;
  storeTimeoutMs: number;
  wasm?: WasmSource;
  /** The app's database, if the leases are in one; and whether its store is known to be one of leases. */
  connection?: IDBDatabase;
  vetted?: boolean;
  app?: App;
}

export interface CheckedOptions {
  timeout?: number;
  signal?: AbortSignal;
  scope?: "tab" | "request";
  within?: Lease<unknown>;
}

/** What the wasm is compiled from, or a function of the package's own that gives it. */
export type Source = WasmSource | (() => WasmInput);

/** What is behind a lease: see `Held` in lease.js, and the locks that it is of. */
export interface Grip {
  held: import("./lease.js").Held;
  locks: object;
}

export type Raw = RawLease;

/** The Rust side of some locks: see `rustSide` in locks.js. */
export type Side = [
  open: (signal: AbortSignal | undefined, longest: number, late: () => Error) => Promise<RawLocks>,
  lockOf: (name: string) => RawLock,
  storeTimeoutMs: number,
];
