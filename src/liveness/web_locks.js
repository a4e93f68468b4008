// What is asked of the browser's own lock manager. Rust decides which answers to believe: see evidence.rs.

/** @typedef {Pick<LockManager, "request" | "query">} Manager */

/**
 * The method, if it is the browser's own. Only such a function has this text: one that is bound, or behind a
 * `Proxy`, has no name in its text.
 * @template {object} T @template {keyof T & string} M
 * @param {T} prototype @param {M} method
 */
function native(prototype, method) {
  const found = prototype[method];
  const texts = [`function ${method}() { [native code] }`, `function ${method}() {\n    [native code]\n}`];
  return typeof found === "function" && texts.includes(found.toString()) && found;
}

/**
 * The manager, by functions that were not replaced. `undefined` outside of secure contexts, in old browsers,
 * and behind a polyfill or a wrapper.
 * @returns {Manager | undefined}
 */
export function manager() {
  try {
    const { prototype } = globalThis.LockManager;
    const { locks } = globalThis.navigator;
    const [request, query] = [native(prototype, "request"), native(prototype, "query")];
    if (!(request && query && locks && typeof locks === "object")) return undefined;
    return {
      request: (/** @type {any} */ ...args) => request.apply(locks, args),
      query: () => query.call(locks),
    };
  } catch {
    return undefined;
  }
}

/**
 * Whether `given` is a lock of the browser's, of that name. The getter refuses everything else.
 * @param {any} given @param {string} name
 */
function isLock(given, name) {
  try {
    return Reflect.get(globalThis.Lock.prototype, "name", given) === name;
  } catch {
    return false;
  }
}

/**
 * Asks for the lock of that name, for as long as this page lives. Calls `lit` with whether it is held.
 * @param {Manager} manager @param {string} name @param {(isLit: boolean) => void} lit
 */
export async function light({ request }, name, lit) {
  try {
    await request(name, {}, (lock) => {
      const isOurs = isLock(lock, name);
      lit(isOurs);
      // The promise never settles, so the lock is held.
      return isOurs ? new Promise(() => {}) : undefined;
    });
  } catch {
    // The lock was refused (a sandboxed frame), or stolen.
  }
  lit(false);
}

/**
 * Which locks of that prefix are held: the rest of each name, and whether the lock is held by this page, as
 * the one named `own` is.
 * @param {Manager} manager @param {string} own @param {string} prefix
 */
export async function lookAround({ query }, own, prefix) {
  const { held } = /** @type {{ held: Required<LockInfo>[] }} */ (await query());
  const us = held.find(({ name }) => name === own)?.clientId;
  return held
    // A shared lock is a watch, and may be this tab's own.
    .filter(({ name, mode }) => name.startsWith(prefix) && mode === "exclusive")
    .flatMap(({ name, clientId }) => [name.slice(prefix.length), us !== undefined && clientId === us]);
}

/**
 * Resolves when the lock of that name was given, and given back at once, with whether it was the browser's.
 * @param {Manager} manager @param {string} name @param {AbortSignal} signal
 */
export async function watch({ request }, name, signal) {
  let lock = false;
  // Shared, so that all tabs that watch are told at once.
  await request(name, { mode: "shared", signal }, (given) => {
    lock = isLock(given, name);
  });
  return lock;
}
