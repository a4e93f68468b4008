// A promise that ends in time, whatever it waits for.
import { broken, whenBroken } from "./guard.js";

const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Settles with the promise that `ask` returns. Rejects before that when `signal` is aborted, `ms` are over or
 * the wasm fails. Without `ms`, or with more than a timer can wait, time does not end it.
 * @template T
 * @param {() => Promise<T>} ask @param {AbortSignal} [signal]
 * @param {number} [ms] @param {() => Error} [late]
 * @returns {Promise<T>}
 */
export function bounded(ask, signal, ms, late) {
  return new Promise((resolve, reject) => {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    /** @type {<V>(settle: (value: V) => void) => (value: V) => void} */
    const end = (settle) => (value) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      whenBroken.delete(fail);
      settle(value);
    };
    const no = end(reject);
    const abort = () => no(signal?.reason);
    const fail = () => no(broken());
    if (ms !== undefined && ms <= MAX_TIMER_MS) timer = setTimeout(() => no(late?.()), ms);
    signal?.addEventListener("abort", abort);
    whenBroken.add(fail);
    if (broken()) fail();
    else ask().then(end(resolve), no);
  });
}
