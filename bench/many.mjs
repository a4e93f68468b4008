// Many names, many calls, many tabs: what a page pays for them. Only this package is asked, and, where there
// is one, another checkout of it beside it: no peer holds leases that have to be renewed.
import { setTimeout as pause } from "node:timers/promises";

/** Each page on an origin of its own: no contender sees another's leases. */
async function page(browser, contender, host, count = "") {
  const { port } = new URL(browser.origin);
  const query = new URLSearchParams({ contender, count });
  const tab = await browser.open(`http://${host}.localhost:${port}/bench/page.html?${query}`);
  const devtools = await tab.context().newCDPSession(tab);
  await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
  return { tab, devtools };
}

const look = async ({ tab, devtools }) => {
  const { metrics } = await devtools.send("Performance.getMetrics");
  const [at, writes, transactions] = await tab.evaluate(() => [performance.now(), window.writes, window.transactions]);
  return { at, writes, transactions, task: metrics.find(({ name }) => name === "TaskDuration").value * 1000 };
};

/** What pages do in `ms`, by the second: each by itself. */
async function rates(pages, ms) {
  const before = await Promise.all(pages.map(look));
  await pause(ms);
  const after = await Promise.all(pages.map(look));
  return after.map(({ at, writes, transactions, task }, n) => {
    const seconds = (at - before[n].at) / 1000;
    return {
      writesPerSecond: (writes - before[n].writes) / seconds,
      transactionsPerSecond: (transactions - before[n].transactions) / seconds,
      taskMsPerSecond: (task - before[n].task) / seconds,
    };
  });
}

const close = (pages) => Promise.all(pages.map(({ tab }) => tab.close()));

let serial = 0;

/** Pages that hold 1, 10, … names that nobody wants. */
async function held(browser, contender, { names, settled, ms }) {
  const host = `held-${++serial}`;
  const pages = [];
  for (const count of names) {
    const opened = await page(browser, contender, `${host}-${count}`);
    pages.push(opened);
    await opened.tab.evaluate((options) => keepMany(options), { lock: "held", count });
  }
  await pause(settled);
  const measured = await rates(pages, ms);
  const lost = await Promise.all(pages.map(({ tab }) => tab.evaluate(() => lostOfMany())));
  await close(pages);
  return Object.fromEntries(names.map((count, n) => [count, { ...measured[n], lost: lost[n] }]));
}

/** One holds many names, another wants them all; then it gets them. */
async function handedOver(browser, contender, { wanted, waits }) {
  const host = `handed-${++serial}`;
  const pages = [await page(browser, contender, host), await page(browser, contender, host)];
  const [holder, waiter] = pages.map(({ tab }) => tab);
  const options = { lock: "handed", count: wanted };
  await holder.evaluate((options) => keepMany(options), options);
  await waiter.evaluate((options) => wantMany(options), options);
  await pause(waits);
  const lost = await holder.evaluate(() => lostOfMany());
  const got = waiter.evaluate(() => gotMany());
  got.catch(() => {});
  const from = await holder.evaluate(() => releaseMany());
  const late = pause(60_000).then(() => Infinity);
  const ms = (await Promise.race([got, late])) - from;
  await pause(waits);
  const lostThen = await waiter.evaluate(() => lostOfMany());
  await close(pages);
  return { ms, lost: lost + lostThen };
}

/** Many calls at once in one tab, each with a lease of its own, while another tab waits. */
async function calls(browser, contender, { calls: count }) {
  const host = `calls-${++serial}`;
  const pages = [await page(browser, contender, host), await page(browser, contender, host)];
  const [busy, waiter] = pages.map(({ tab }) => tab);
  await waiter.evaluate((options) => keepMany(options), { lock: "warm", count: 1 });
  const all = busy.evaluate((options) => manyCalls(options), { lock: "calls", count });
  await pause(20);
  const otherMs = await waiter.evaluate((options) => other(options).catch(() => Infinity), { lock: "calls" });
  const log = { ...(await all), otherMs };
  await close(pages);
  return log;
}

/** One holds, others wait, and nothing happens. */
async function waiting(browser, contender, { waiters, settled, ms }) {
  const host = `waiting-${++serial}`;
  const pages = [];
  for (let n = 0; n <= waiters; n++) {
    const opened = await page(browser, contender, host);
    pages.push(opened);
    await opened.tab.evaluate(([method, options]) => window[method](options), [n ? "wantMany" : "keepMany", { lock: "waiting", count: 1 }]);
  }
  await pause(settled);
  const measured = await rates(pages, ms);
  const lost = await pages[0].tab.evaluate(() => lostOfMany());
  await close(pages);
  const total = (key) => measured.reduce((sum, rate) => sum + rate[key], 0);
  return {
    writesPerSecond: total("writesPerSecond"),
    transactionsPerSecond: total("transactionsPerSecond"),
    holderTaskMsPerSecond: measured[0].taskMsPerSecond,
    lost,
  };
}

/** All of it, of one contender. */
export async function many(browser, contender, plan) {
  return {
    held: await held(browser, contender, plan),
    handedOver: await handedOver(browser, contender, plan),
    calls: await calls(browser, contender, plan),
    waiting: await waiting(browser, contender, plan),
  };
}
