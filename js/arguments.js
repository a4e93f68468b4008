// Checks what callers give, before anything is touched: a bad argument is a TypeError or RangeError.
import { checkDatabase, LEASE_STORE } from "./database.js";
import { bad } from "./errors.js";
import { checkSource } from "./source.js";

/** @import { AcquireOptions, LocksSettings } from "./index.js" */
/** @import { Checked, CheckedOptions } from "./internal.js" */

/** The defaults of `createLocks`, durations in ms. */
const DEFAULTS = {
  database: "tab-lease",
  store: LEASE_STORE,
  holder: "tab",
  leaseMs: 500,
  storeTimeoutMs: 10_000,
};
const MAX_LEASE_MS = 600_000;
const MAX_TIMER_MS = 2 ** 31 - 1;

/** @param {unknown} value @param {string} what */
export function checkText(value, what) {
  if (typeof value !== "string") throw bad(TypeError, `${what} must be a string`);
  if (value === "") throw bad(TypeError, `${what} must not be empty`);
  return value;
}

/** @param {unknown} value @param {string} what @param {number} least @param {number} most */
function checkMs(value, what, least, most) {
  if (typeof value !== "number") throw bad(TypeError, `${what} must be a number of milliseconds`);
  if (!(value >= least && value <= most))
    throw bad(RangeError, `${what} must be from ${least} to ${most} ms, not ${value}`);
  return value;
}

/**
 * Refuses unknown options: an ignored `mode: "shared"` would be another lock than was asked for.
 * @template {object} T
 * @param {T | undefined} options @param {string[]} known @param {string} what
 * @returns {Partial<T>}
 */
export function checkKeys(options, known, what) {
  if (options === undefined) return {};
  if (options === null || typeof options !== "object") throw bad(TypeError, `${what} must be an object`);
  for (const key in options) {
    if (!known.includes(key) && Reflect.get(options, key) !== undefined)
      throw bad(TypeError, `${what}: there is no option "${key}"`);
  }
  return options;
}

/**
 * @param {AcquireOptions | undefined} options @param {string[]} known
 * @returns {CheckedOptions}
 */
export function checkOptions(options, known) {
  const { timeout, signal, scope, within } = checkKeys(options, known, "options");
  if (timeout !== undefined && timeout !== Infinity) checkMs(timeout, "timeout", 0, Number.MAX_SAFE_INTEGER);
  if (signal !== undefined && !(typeof signal?.addEventListener === "function" && "aborted" in signal)) {
    throw bad(TypeError, "signal must be an AbortSignal");
  }
  if (scope !== undefined && scope !== "tab" && scope !== "request")
    throw bad(TypeError, 'scope must be "tab" or "request"');
  return { timeout: timeout === Infinity ? undefined : timeout, signal, scope, within };
}

/**
 * @param {LocksSettings | undefined} settings
 * @returns {Checked}
 */
export function checkSettings(settings) {
  const known = ["database", "store", "holder", "leaseMs", "heartbeatMs", "storeTimeoutMs", "wasm"];
  const given = checkKeys(settings, known, "settings");
  /** @param {keyof typeof DEFAULTS} key */
  const pick = (key) => (given[key] === undefined ? DEFAULTS[key] : given[key]);
  const leaseMs = Math.round(checkMs(pick("leaseMs"), "leaseMs", 10, MAX_LEASE_MS));
  // A tenth, so that a missed beat costs nothing.
  const heartbeatMs = Math.round(
    checkMs(given.heartbeatMs ?? Math.max(leaseMs / 10, 1), "heartbeatMs", 1, MAX_LEASE_MS),
  );
  if (heartbeatMs >= leaseMs)
    throw bad(RangeError, `heartbeatMs (${heartbeatMs}) must be below leaseMs (${leaseMs})`);
  const database = pick("database");
  const store = checkText(pick("store"), "store");
  return {
    ...(typeof database === "string"
      ? { database: checkText(database, "database") }
      : checkDatabase(database, store)),
    store,
    holder: checkText(pick("holder"), "holder"),
    leaseMs,
    heartbeatMs,
    storeTimeoutMs: checkMs(pick("storeTimeoutMs"), "storeTimeoutMs", 1, MAX_TIMER_MS),
    wasm: given.wasm === undefined ? undefined : checkSource(given.wasm),
  };
}
