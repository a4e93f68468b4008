// Many names, many calls, many tabs, as functions that run in a tab: what only this package is asked.

import { own } from "./contenders.js";

const locks = () => own(new URLSearchParams(location.search).get("contender"));

const leases = [];
/** When the last of those came that were asked for: who measures comes back for it. */
let wanted;

const name = (lock, n) => `${lock} ${n}`;

/** Takes `count` names, and keeps them. */
async function keepMany({ lock, count }) {
  const { acquire } = await locks();
  leases.push(...(await Promise.all(Array.from({ length: count }, (_, n) => acquire(name(lock, n))))));
}

/** How many of those that this tab keeps were lost. */
const lostOfMany = () => leases.filter(({ signal }) => signal.aborted).length;

/** Asks for `count` names; {@link gotMany} tells when the last one came. */
async function wantMany({ lock, count }) {
  const { acquire } = await locks();
  const all = Array.from({ length: count }, (_, n) => acquire(name(lock, n)));
  wanted = Promise.all(all).then((got) => (leases.push(...got), Date.now()));
  wanted.catch(() => {});
}

const gotMany = () => wanted;

/** Gives all up at once, and tells when it began to. */
async function releaseMany() {
  const from = Date.now();
  await Promise.all(leases.map((lease) => lease.release()));
  return from;
}

/** `count` calls at once, each with a lease of its own, each for a section that another would disturb. */
async function manyCalls({ lock, count }) {
  const { withLease } = await locks();
  let inside = 0;
  let overlaps = 0;
  let sections = 0;
  const from = performance.now();
  const section = async () => {
    if (++inside > 1) overlaps++;
    const before = sections;
    await null;
    sections = before + 1;
    inside--;
  };
  const call = () => withLease(lock, { scope: "request", timeout: 60_000 }, section);
  const ends = await Promise.allSettled(Array.from({ length: count }, call));
  const failed = ends.find(({ status }) => status === "rejected")?.reason;
  return { ms: performance.now() - from, sections, overlaps, ...(failed && { failed: `${failed.code ?? failed}` }) };
}

/** Waits for the lock, and gives it back; resolves with how long that took. */
async function other({ lock }) {
  const { acquire } = await locks();
  const from = performance.now();
  const lease = await acquire(lock, { timeout: 60_000 });
  const ms = performance.now() - from;
  await lease.release();
  return ms;
}

export const many = { keepMany, lostOfMany, wantMany, gotMany, releaseMany, manyCalls, other };
