// A promise that ends in time, whatever it waits for.
import { broken, whenBroken } from "./guard.js";

const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Settles with the promise that `ask` returns, or rejects once `signal` is aborted, `ms` are over, or the wasm has failed,
 * whichever is first. Without `ms`, or with more than a timer can wait, time does not end it.
 */
export function bounded(ask, signal, ms, late) {
  return new Promise((resolve, reject) => {
    let timer;
    const end = (settle) => (value) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      whenBroken.delete(fail);
      settle(value);
    };
    const no = end(reject);
    const abort = () => no(signal.reason);
    const fail = () => no(broken());
    if (ms <= MAX_TIMER_MS) timer = setTimeout(() => no(late()), ms);
    signal?.addEventListener("abort", abort);
    whenBroken.add(fail);
    if (broken()) fail();
    else ask().then(end(resolve), no);
  });
}
