// The signal of a lease.

/**
 * Makes a signal look at the clock when it is asked. After a hang the page may go on in the middle of a
 * task, before anybody can abort the signal: what it asks then must not be answered "go on".
 */
export function asked(signal, look) {
  const { prototype } = AbortSignal;
  const own = (name) => Object.getOwnPropertyDescriptor(prototype, name).get;
  const [aborted, reason] = [own("aborted"), own("reason")];
  const fresh = (get) => ({
    get() {
      if (!aborted.call(signal)) look();
      return get.call(signal);
    },
  });
  return Object.defineProperties(signal, {
    aborted: fresh(aborted),
    reason: fresh(reason),
    throwIfAborted: {
      value() {
        if (signal.aborted) throw signal.reason;
      },
    },
  });
}
