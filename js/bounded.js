// A promise that ends in time.

const MAX_TIMER_MS = 2 ** 31 - 1;

/** Settles with `promise`, or rejects once `signal` is aborted or `ms` are over, whichever is first. */
export async function bounded(promise, signal, ms, late) {
  let timer, abort;
  const ended = new Promise((_, reject) => {
    timer = setTimeout(() => reject(late()), Math.min(ms, MAX_TIMER_MS));
    abort = () => reject(signal.reason);
    signal?.addEventListener("abort", abort);
  });
  try {
    return await Promise.race([promise, ended]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}
