// Browser functions that answer oddly, as wrappers, mocks and polyfills in real apps do. A page is given them
// by `?odd=NAME`, before the package is used for the first time.

const locks = () => globalThis.LockManager?.prototype;

/** In place of `navigator.locks.request`: `instead` for the package's own names, the browser's for others. */
function wrap(instead, bind = false) {
  const prototype = locks();
  if (!prototype) return;
  const own = prototype.request;
  let wrapper = async function (name, options, callback) {
    if (!name.startsWith("tab-lease")) return own.apply(this, arguments);
    return instead.call(this, own, name, callback ?? options);
  };
  // A bound function looks like one of the browser's, but for its name.
  if (bind) wrapper = wrapper.bind(navigator.locks);
  prototype.request = wrapper;
}

const never = () => new Promise(() => {});

/** A `scheduler.postTask` that has no idea of a delay; how often it was called. */
function scheduler(postTask) {
  window.posts = 0;
  const counted = (task) => {
    posts++;
    return postTask(task);
  };
  Object.defineProperty(globalThis, "scheduler", { value: { postTask: counted }, configurable: true });
}

export const ODD = {
  // ---- Web Locks that prove nothing
  nullLocks: () => wrap((own, name, granted) => granted(null)),
  nullLocksBound: () => wrap((own, name, granted) => granted(null), true),
  fakeLocks: () => wrap((own, name, granted) => granted({ name, mode: "exclusive" })),
  otherLocks: () => wrap((own, name, granted) => own.call(navigator.locks, `not ${name}`, granted)),
  inheritedLocks: () => wrap((own, name, granted) => granted(Object.create(globalThis.Lock.prototype))),
  polyfilledLocks: () =>
    Object.defineProperty(navigator, "locks", {
      value: {
        request: async (name, options, callback) => (callback ?? options)({ name, mode: "exclusive" }),
        query: async () => ({
          held: [{ name: "tab-lease#anybody", mode: "exclusive", clientId: "x" }],
          pending: [],
        }),
      },
    }),
  seenByNobody: () => locks() && (locks().query = async () => ({ held: [], pending: [] })),
  // ---- … or never say anything
  silentLocks: () => wrap(never),
  locksWithoutPromise: () => locks() && (locks().request = () => undefined),
  // ---- Schedulers
  schedulerWithoutDelay: () => scheduler((task) => new Promise((done) => setTimeout(() => done(task())))),
  schedulerAtOnce: () => scheduler(async (task) => task()),
  schedulerRefusing: () => scheduler(() => Promise.reject(new Error("no"))),
  schedulerThrowing: () => scheduler(() => { throw new Error("no"); }),
  schedulerWithoutPromise: () => scheduler(() => undefined),
};
