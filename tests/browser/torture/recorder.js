// The tab that looks on: keeps the log, sees to it that the service worker lives, and measures for how long
// the databases answer nobody.
import * as tabLease from "../../../js/index.js";
import { open } from "../contexts/open.js";
import { audit, DATABASE, NAMES } from "./ledger.js";
import { LOG, now } from "./log.js";

/** A database that does not answer for longer, in ms, is told as stalled. */
const STALL = 300;
const STORES = { [DATABASE]: "counters", "tab-lease": tabLease.LEASE_STORE };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const entries = [];
new BroadcastChannel(LOG).onmessage = ({ data }) => entries.push(data);

let looking = true;

/** One empty readwrite transaction after another: a tab that blocks the others blocks these, too. */
async function probe(database) {
  const db = await new Promise((resolve, reject) => {
    const request = indexedDB.open(database);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  db.onversionchange = () => db.close();
  while (looking) {
    const from = now();
    const tx = db.transaction(STORES[database], "readwrite");
    tx.objectStore(STORES[database]).get("none").onsuccess = () => tx.commit();
    await new Promise((resolve) => (tx.oncomplete = tx.onabort = resolve));
    if (now() - from > STALL) entries.push({ at: from, what: "stall", database, from, to: now() });
    await pause(100);
  }
}

let service;

Object.assign(window, {
  NAMES,

  async begin(settings) {
    // So that both databases exist.
    await (await tabLease.acquire("none")).release();
    await audit();
    for (const database in STORES) void probe(database);
    service = await open("service", "/tests/browser/torture/contender.js");
    const poke = () => void (looking && service.call("start", { ...settings, place: "service" }));
    poke();
    setInterval(poke, 2_000);
  },

  /** What was told since the last time. */
  drain: () => entries.splice(0),

  /** Ends what it has begun. */
  async end() {
    looking = false;
    await service.call("stop");
  },

  audit,

  /**
   * When each lock is asked for and had, now that nobody is left who could hold it; and how long the lease is
   * that somebody died with, if any. This tab has not seen it alive, so it has to watch for that long.
   */
  async takeAll(timeout) {
    const took = {};
    for (const name of NAMES) {
      const { held } = await tabLease.query();
      const leaseMs = held.find((lock) => lock.name === name)?.leaseMs ?? 0;
      const from = now();
      const released = tabLease.acquire(name, { timeout }).then((lease) => lease.release());
      const to = await released.then(now, () => Infinity);
      took[name] = { from, to, leaseMs };
    }
    return took;
  },
  ready: true,
});
