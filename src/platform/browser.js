/**
 * Calls `then` after so many ms, in a task of the highest priority. Answers whether there are priorities.
 * @param {number} ms @param {() => void} then
 */
export function urgent(ms, then) {
  try {
    // Older browsers have no scheduler.
    /** @type {any} */ (globalThis).scheduler.postTask(then, { priority: "user-blocking", delay: ms });
    return true;
  } catch {
    return false;
  }
}
