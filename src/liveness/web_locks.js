// What is asked of the browser's own lock manager. What is believed of it is decided in Rust: see
// evidence.rs.

/** @typedef {Pick<LockManager, "request" | "query">} Manager */

/**
 * The method, if it is the browser's: only a function of its own reads like that (one that is bound, or
 * behind a `Proxy`, has no name in its text).
 * @template {object} T @template {keyof T & string} M
 * @param {T} prototype @param {M} method
 */
function native(prototype, method) {
  const found = prototype[method];
  const texts = [`function ${method}() { [native code] }`, `function ${method}() {\n    [native code]\n}`];
  return typeof found === "function" && texts.includes(found.toString()) && found;
}

/**
 * The manager, by functions that nobody has replaced. Nothing outside of secure contexts, in old browsers,
 * and behind a polyfill or a wrapper.
 * @returns {Manager | undefined}
 */
export function manager() {
  try {
    const { prototype } = globalThis.LockManager;
    const { locks } = globalThis.navigator;
    const [request, query] = [native(prototype, "request"), native(prototype, "query")];
    if (!(request && query && locks && typeof locks === "object")) return undefined;
    return { request: (/** @type {any} */ ...args) => request.apply(locks, args), query: () => query.call(locks) };
  } catch {
    return undefined;
  }
}

/**
 * Whether it is a lock of the browser's, of that name. The getter refuses everything else.
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
 * Asks for the lock of that name, for as long as this page lives, and tells whether it is held.
 * @param {Manager} manager @param {string} name @param {(isLit: boolean) => void} lit
 */
export async function light({ request }, name, lit) {
  try {
    await request(name, {}, (lock) => {
      const isOurs = isLock(lock, name);
      lit(isOurs);
      // Never settles.
      return isOurs ? new Promise(() => {}) : undefined;
    });
  } catch {
    // Refused (a sandboxed frame), or stolen.
  }
  lit(false);
}

/**
 * Whose locks are held, without that prefix, and of each whether it is ours, as the one named `own` is.
 * @param {Manager} manager @param {string} own @param {string} prefix
 */
export async function lookAround({ query }, own, prefix) {
  const { held } = /** @type {{ held: Required<LockInfo>[] }} */ (await query());
  const us = held.find(({ name }) => name === own)?.clientId;
  return held
    // A watch is shared, and may be this tab's own.
    .filter(({ name, mode }) => name.startsWith(prefix) && mode === "exclusive")
    .flatMap(({ name, clientId }) => [name.slice(prefix.length), us !== undefined && clientId === us]);
}

/**
 * Resolves when the lock of that name is given, and given back at once, with whether it was one.
 * @param {Manager} manager @param {string} name @param {AbortSignal} signal
 */
export async function watch({ request }, name, signal) {
  let lock = false;
  // Shared: all who watch are told at once.
  await request(name, { mode: "shared", signal }, (given) => {
    lock = isLock(given, name);
  });
  return lock;
}
