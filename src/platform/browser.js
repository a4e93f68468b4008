/**
 * Calls `then` after so many ms, in a task of the highest priority; answers whether there are such.
 * @param {number} ms @param {() => void} then
 */
export function urgent(ms, then) {
  try {
    // Browsers older than it have none.
    /** @type {any} */ (globalThis).scheduler.postTask(then, { priority: "user-blocking", delay: ms });
    return true;
  } catch {
    return false;
  }
}
