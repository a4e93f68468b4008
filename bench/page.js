// The scenarios, as functions that run in a tab: `page.html?contender=…` loads one contender, and
// bench/measure.mjs calls these in one or several tabs at the same time. Times are in ms.
import { load, own } from "./contenders.js";
import { many } from "./many.js";
import { watchWrites } from "./writes.js";

const query = new URLSearchParams(location.search);

/** How long one acquisition may take before the batch is given up: some peers never come back. */
const PATIENCE = 5_000;

/** A clock that all tabs of this machine share, but for a skew that {@link pings} measures. */
const clock = () => performance.timeOrigin + performance.now();

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(ms, 0)));

const within = (ms, promise, what) => {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

let contender;
const acquire = (...args) => within(PATIENCE, contender(...args), "acquire");

/** Messages between the two tabs of a batch, in order; resolves when both are there. */
async function link(name) {
  const channel = new BroadcastChannel(`bench ${name}`);
  const post = (data) => channel.postMessage(data);
  const inbox = [];
  let arrived = () => {};
  let met;
  const meeting = new Promise((resolve) => (met = resolve));
  channel.onmessage = ({ data }) => {
    if (data === "hello") return met();
    inbox.push({ data, at: clock() });
    arrived();
  };
  // Each says hello until it has heard the other, and once more then.
  const hello = setInterval(post, 10, "hello");
  await within(PATIENCE, meeting, "the other tab").finally(() => clearInterval(hello));
  post("hello");
  return {
    post,
    async next() {
      if (inbox.length === 0) await within(2 * PATIENCE, new Promise((resolve) => (arrived = resolve)), "the other tab");
      return inbox.shift();
    },
  };
}

/** Runs `batch` and answers with what it logged, and with how it failed if it did. */
async function attempt(log, batch) {
  try {
    await batch();
  } catch (error) {
    log.failed = `${error?.message ?? error}`;
  }
  return log;
}

/** First use: loads, opens databases, compiles. */
async function warmUp({ lock, ops = 3 }) {
  return attempt({}, async () => {
    for (let n = 0; n < ops; n++) await (await acquire(lock, true))();
  });
}

/** The skew of two tabs' clocks: one pings, the other answers with its time. */
async function pings({ name, first, count }) {
  const log = { samples: [] };
  return attempt(log, async () => {
    const peer = await link(name);
    await pause(50);
    for (let n = 0; n < count; n++) {
      if (first) {
        const sent = clock();
        peer.post(n);
        const { data, at } = await peer.next();
        log.samples.push({ rtt: at - sent, skew: data - (sent + at) / 2 });
      } else {
        const { at } = await peer.next();
        peer.post(at);
      }
    }
  });
}

/**
 * Two tabs hand a lock to and fro. The waiter says that it has asked; the holder then holds on for a
 * random while, notes the time and releases; the waiter notes when it got the lock.
 */
async function handOver({ lock, first, count, hold }) {
  const log = { released: [], got: [] };
  return attempt(log, async () => {
    const peer = await link(lock);
    let release;
    if (first) {
      release = await acquire(lock, true);
      peer.post("I hold");
    } else {
      await peer.next();
    }
    for (let n = 0; n < count; n++) {
      if (first === (n % 2 === 0)) {
        await peer.next();
        await pause(hold.least + Math.random() * hold.spread);
        log.released.push([n, clock()]);
        await release();
        // Asking again at once would get it back, where the lock is not fair.
        await peer.next();
      } else {
        const wanted = acquire(lock);
        peer.post("I wait");
        release = await wanted;
        log.got.push([n, clock()]);
        peer.post("I hold");
      }
    }
    if (first === (count % 2 === 0)) await release();
  });
}

/** One tab acquires and releases, nobody else wants the lock; `gap` ms between. */
async function again({ lock, ops, ms, gap = 0 }) {
  const log = { times: [] };
  const batch = async () => {
    const start = performance.now();
    while (log.times.length < ops && (log.times.length < 3 || performance.now() - start < ms)) {
      if (gap > 0) await pause(gap);
      const asked = performance.now();
      await (await contender(lock))();
      log.times.push(performance.now() - asked);
    }
  };
  return attempt(log, () => within(ms + PATIENCE, batch(), "the batch"));
}

let opened;

/** A counter that loses updates unless its users take turns: a read and a write, in two transactions. */
const counter = {
  async open() {
    opened ??= await new Promise((resolve, reject) => {
      const request = indexedDB.open("bench counters", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("counters");
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    return opened;
  },

  async read(name) {
    const request = (await counter.open()).transaction("counters").objectStore("counters").get(name);
    await new Promise((resolve, reject) => {
      request.onsuccess = resolve;
      request.onerror = () => reject(request.error);
    });
    return request.result ?? 0;
  },

  async write(name, value) {
    const tx = (await counter.open()).transaction("counters", "readwrite", { durability: "relaxed" });
    tx.objectStore("counters").put(value, name);
    await new Promise((resolve, reject) => {
      tx.oncomplete = resolve;
      tx.onabort = () => reject(tx.error);
    });
  },
};

/** Increments the counter under the lock, again and again, from `startAt` (wall clock) for `ms`. */
async function contend({ lock, ms, startAt }) {
  const log = { sections: 0, waits: [], late: 0, errors: [] };
  return attempt(log, async () => {
    // The first transactions of a page are slow, and no lock's business.
    for (let n = 0; n < 3; n++) await counter.write(`${lock} warm`, await counter.read(`${lock} warm`));
    await pause(startAt - Date.now());
    log.late = Math.max(Date.now() - startAt, 0);
    const end = performance.now() + startAt + ms - Date.now();
    const over = pause(end - performance.now());
    while (performance.now() < end) {
      try {
        const asked = performance.now();
        const wanted = contender(lock);
        const release = await Promise.race([wanted, over]);
        log.waits.push(performance.now() - asked);
        // The time is over. It has waited for so long, at least; what it gets now, it gives back.
        if (!release) return void (await (await within(PATIENCE / 2, wanted, "acquire"))());
        await counter.write(lock, (await counter.read(lock)) + 1);
        log.sections++;
        await release();
      } catch (error) {
        // Some peers throw at a holder. An app would go on, too; but not without a pause.
        log.errors.push(`${error?.message ?? error}`);
        await pause(0);
      }
    }
  });
}

/** One tab writes, by turns with the fence and without: the same transaction, of a get and a put. */
async function fenced({ lock, ops, ms }) {
  const log = { times: [], plain: [] };
  const batch = async () => {
    const { addLeaseStore, createLocks, LEASE_STORE } = await own(query.get("contender"));
    const db = await new Promise((resolve, reject) => {
      const request = indexedDB.open("bench notes", 1);
      request.onupgradeneeded = () => {
        addLeaseStore(request.result);
        request.result.createObjectStore("notes");
      };
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    const lease = await createLocks({ database: db }).acquire(lock);
    const write = (fence) =>
      new Promise((resolve, reject) => {
        const begun = performance.now();
        const tx = db.transaction(fence ? ["notes", LEASE_STORE] : "notes", "readwrite", { durability: "relaxed" });
        if (fence) lease.fence(tx);
        const notes = tx.objectStore("notes");
        notes.get(lock).onsuccess = ({ target }) => notes.put({ count: (target.result?.count ?? 0) + 1 }, lock);
        tx.oncomplete = () => resolve(performance.now() - begun);
        tx.onabort = () => reject(tx.error ?? new Error("aborted"));
      });
    for (let n = 0; n < 10; n++) await write(n % 2 === 0);
    const start = performance.now();
    while (log.times.length < ops && (log.times.length < 3 || performance.now() - start < ms)) {
      // Who goes first has the other's commit in its way.
      for (const fence of Math.random() < 0.5 ? [true, false] : [false, true]) {
        (fence ? log.times : log.plain).push(await write(fence));
      }
    }
    await lease.release();
  };
  return attempt(log, () => within(ms + PATIENCE, batch(), "the batch"));
}

/** Takes the lock and keeps it. */
async function keep({ lock }) {
  return attempt({}, async () => (window.kept = await acquire(lock)));
}

if (query.has("count")) watchWrites(globalThis);
if (query.get("contender")) contender = await load(query.get("contender"));
Object.assign(window, { warmUp, pings, handOver, again, contend, fenced, keep, counter, ...many, ready: true });
