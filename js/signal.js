// The signals of leases: aborted before the page can believe in a lease that is over.
//
// After a hang, or a dialog, the page goes on in the middle of a task, before any timer or message of ours.
// What it asks first must not be answered "go on". So all ways into this package look at the clock first,
// for all leases of the page; and so do the getters of every AbortSignal, once a lease's signal is in use:
// one that was derived from it (by `any`) is aborted with it. What the platform reads by itself in that
// moment (`fetch`, streams) is the signal's own state, which nobody can be asked about: see the README.
import { cuts } from "../pkg/tab_lease.js";
import { onEntry, whenBroken, whileOutside } from "./guard.js";

/** @import { Held } from "./lease.js" */

/** What is held here, and not known to be lost. @type {Set<Held>} */
const live = new Set();
/** No lease expires before that time, unless `cuts` has changed since. */
let earliest = Infinity;
/** @type {number | undefined} */
let seen;
/** The leases that have expired and are still to be told, and why. @type {[Held, any][]} */
const over = [];

/** @param {Held} held */
export function watch(held) {
  live.add(held);
  // Now, as far as it is known: a look at all of them for each new one would take its time.
  whileOutside(() => (earliest = Math.min(earliest, performance.now() + held.raw.left())));
}

/** @param {Held} held */
export const unwatch = (held) => live.delete(held);

/** Finds the leases that have expired since the last look. */
function find() {
  const now = performance.now();
  if (now < earliest && cuts() === seen) return;
  earliest = Infinity;
  for (const held of live) {
    const left = held.raw.left();
    if (left > 0) earliest = Math.min(earliest, now + left);
    else over.push([held, held.raw.loss()]);
  }
  seen = cuts();
}

/** Aborts the signals of leases that have expired. Never throws: getters of the platform call it, too. */
export function look() {
  if (live.size === 0) return;
  try {
    whileOutside(find);
    // A listener that looks in the midst of this goes on with it before it is answered.
    while (over.length > 0) {
      const [held, code] = /** @type {[Held, any]} */ (over.shift());
      if (live.has(held)) held.end(code);
    }
  } catch {
    // The wasm has failed, and everybody was told; or the page has broken the clock.
  }
}

onEntry(look);
whenBroken.add(() => live.forEach((held) => held.fail()));

let patched = false;

/** Makes every signal of this page look first: those made of a lease's signal are aborted with it. */
export function patchSignals() {
  if (patched) return;
  patched = true;
  const { prototype } = AbortSignal;
  /** @type {Record<string, any>} */
  const { aborted, reason, throwIfAborted } = Object.getOwnPropertyDescriptors(prototype);
  // As the platform's are: by name, by length, and not to be constructed.
  const looking = {
    get aborted() {
      look();
      return aborted.get.call(this);
    },
    get reason() {
      look();
      return reason.get.call(this);
    },
    throwIfAborted() {
      look();
      return throwIfAborted.value.call(this);
    },
  };
  for (const [name, native] of Object.entries({ aborted, reason, throwIfAborted })) {
    const { get, value } = Object.getOwnPropertyDescriptor(looking, name) ?? {};
    // Old browsers lack some. In a frozen realm none can be changed: then only the leases' own signals look.
    if (native?.configurable)
      Object.defineProperty(prototype, name, { ...native, ...(get ? { get } : { value }) });
  }
}

/**
 * Makes a signal's own members look: where the prototype could not be changed, and behind a Proxy, which the
 * platform's own members refuse.
 * @param {AbortSignal} signal @param {() => void} look
 */
export function asked(signal, look) {
  /** @param {string} name */
  const fresh = (name) => ({
    configurable: true,
    get() {
      look();
      return Reflect.get(AbortSignal.prototype, name, signal);
    },
  });
  return Object.defineProperties(signal, {
    aborted: fresh("aborted"),
    reason: fresh("reason"),
    throwIfAborted: {
      configurable: true,
      writable: true,
      value() {
        if (signal.aborted) throw signal.reason;
      },
    },
  });
}
