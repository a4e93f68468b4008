// One of those who contend for a lock, in whatever context it runs.
import { createLocks } from "../../../js/index.js";
import { counter } from "../counter.js";
import { answer } from "./answer.js";

const starts = new BroadcastChannel("start");
let started;
let held;

export const contender = {
  /** Loads what is needed, so that all can begin together: with a message on the channel "start". */
  async prepare(settings, name) {
    started = new Promise((resolve) => (starts.onmessage = resolve));
    await createLocks(settings).withLease(name, () => counter.read(name));
  },

  /** Increments the counter of that name, each time under the lock, unless there is to be none. */
  async count(settings, name, sections, locked) {
    const locks = createLocks(settings);
    const log = [];
    const increment = async (lease) =>
      log.push({ value: await counter.increment(name), token: lease?.token });
    await started;
    for (let section = 0; section < sections; section++) {
      await (locked ? locks.withLease(name, increment) : increment());
    }
    return log;
  },

  /** Takes the lock and keeps it. */
  async hold(settings, name) {
    held = await createLocks(settings).acquire(name);
    return held.token;
  },
};

answer(contender);
