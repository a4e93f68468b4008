// Runs the scenarios in real Chromium tabs, round by round: every round runs every contender once in
// each scenario, in an order drawn anew, so that whatever else the machine does hits all alike.
import { createReadStream, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { build } from "esbuild";
import { root } from "../scripts/lib.mjs";
import { launch } from "../tests/browser/chromium.mjs";
import { many } from "./many.mjs";
import { watchWrites } from "./writes.js";

export const SUBJECT = "tab-lease";
/** Another checkout of this package, where one is given. */
export const BEFORE = "tab-lease (before)";
export const NATIVE = "navigator.locks";
export const PEERS = ["browser-tabs-lock", "idb-mutex", "navigator.locks (polyfill)"];
export const LOCKS = [SUBJECT, NATIVE, ...PEERS];
export const BARE = "bare transaction";
export const HOP = "BroadcastChannel hop";
export const IDLE = "idle page";

/**
 * How much is measured. Times in ms. No round is begun that would end after `limit`, to judge by the
 * ones before.
 */
export const FULL = {
  rounds: 5,
  limit: 570_000,
  handOver: { count: 16, hold: { least: 40, spread: 60 } },
  again: { ops: 200, ms: 1_000 },
  // The pause is three beats: nothing that lingers is left.
  cold: { ops: 8, ms: 3_000, gap: 150 },
  fenced: { ops: 300, ms: 1_500 },
  contention: { tabs: [2, 4, 8], ms: 2_000 },
  // A lease that nobody wants grows for ten seconds before it is as long as it gets, and for half a minute
  // the browser collects what loading has left behind.
  idle: { settled: 45_000, ms: 20_000 },
  many: { names: [1, 10, 100, 300], settled: 5_000, ms: 10_000, wanted: 300, waits: 3_000, calls: 1_000, waiters: 7 },
};

export const QUICK = {
  rounds: 1,
  limit: 60_000,
  handOver: { ...FULL.handOver, count: 4 },
  again: { ops: 50, ms: 300 },
  cold: { ...FULL.cold, ops: 4 },
  fenced: { ops: 60, ms: 400 },
  contention: { tabs: [2, 4], ms: 400 },
  idle: { settled: 1_000, ms: 2_000 },
  many: { names: [1, 30], settled: 1_000, ms: 2_000, wanted: 30, waits: 1_000, calls: 50, waiters: 2 },
};

function shuffled(list) {
  const left = [...list];
  return list.map(() => left.splice(Math.floor(Math.random() * left.length), 1)[0]);
}

const ISOLATED = {
  "cache-control": "no-store",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};
const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", wasm: "application/wasm" };

function send(response, file) {
  const type = TYPES[file.split(".").at(-1)] ?? "application/octet-stream";
  response.writeHead(200, { "content-type": type, ...ISOLATED });
  createReadStream(file).on("error", () => response.destroy()).pipe(response);
}

/**
 * Serves bench/, bundled with the peers, cross-origin isolated: that makes the clock tick every 5 µs. And
 * below /before the built checkout in that folder, if any.
 */
async function pages(before) {
  const folder = mkdtempSync(join(tmpdir(), "tab-lease-bench-"));
  await build({
    entryPoints: [join(root, "bench/page.js")],
    outdir: folder,
    bundle: true,
    splitting: true,
    format: "esm",
    target: "es2022",
    // The package itself is served as it is shipped.
    external: ["/js/*", "/before/*"],
    logLevel: "warning",
  });
  return {
    answer(request, response) {
      const { pathname } = new URL(request.url, "http://localhost");
      const other = before && pathname.match(/^\/before\/((?:js|pkg)\/[\w.-]+)$/)?.[1];
      if (other) send(response, join(before, other));
      const name = pathname.match(/^\/bench\/([\w.-]+)$/)?.[1];
      if (name) send(response, join(name.endsWith(".html") ? join(root, "bench") : folder, name));
      return Boolean(other || name);
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Tabs that are kept, each in its window, and navigated for each batch. */
class Tabs {
  #browser;
  #tabs = [];
  #used = 0;

  constructor(browser) {
    this.#browser = browser;
  }

  async #go(tab, contender) {
    const query = contender ? `?${new URLSearchParams({ contender })}` : "";
    await tab.goto(new URL(`/bench/page.html${query}`, this.#browser.origin).href, { waitUntil: "commit" });
    await tab.waitForFunction(() => window.ready, undefined, { polling: 20 });
  }

  /** `count` tabs with a fresh page of the contender; no other page of any contender is left. */
  async with(contender, count) {
    while (this.#tabs.length < count) this.#tabs.push(await this.#browser.open("/bench/page.html"));
    const tabs = this.#tabs.slice(0, count);
    const park = this.#tabs.slice(count, this.#used).map((tab) => this.#go(tab));
    this.#used = count;
    await Promise.all(park);
    // What peers keep in localStorage, and would look through: nobody uses it now.
    await tabs[0].evaluate(() => localStorage.clear());
    await Promise.all(tabs.map((tab) => this.#go(tab, contender)));
    return tabs;
  }

  async state() {
    return Promise.all(
      this.#tabs.map((tab) => tab.evaluate(() => ({ visible: !document.hidden, isolated: crossOriginIsolated }))),
    );
  }
}

const only = (logs) => logs.map(({ failed }) => failed).find(Boolean);

let serial = 0;
const fresh = (what) => `${what} ${++serial}`;

const SCENARIOS = {
  handOver: {
    contenders: [...LOCKS, HOP],
    async run(tabs, contender, { count, hold }) {
      const [a, b] = await tabs.with(contender, 2);
      const lock = fresh("hand-over");
      const both = (method, options) =>
        Promise.all([a, b].map((tab, n) => tab.evaluate(([method, options]) => window[method](options), [method, { ...options, first: n === 0 }])));
      const [{ samples }] = await both("pings", { name: fresh("pings"), count: 30 });
      samples.sort((a, b) => a.rtt - b.rtt);
      const { rtt, skew } = samples[0] ?? { rtt: NaN, skew: NaN };
      const warm = await both("handOver", { lock: `${lock} warm`, count: 2, hold });
      const logs = warm.some(({ failed }) => failed) ? warm : await both("handOver", { lock, count, hold });
      const released = new Map(logs.flatMap((log) => log.released));
      const times = logs.flatMap(({ got }, tab) =>
        got.map(([n, at]) => at - released.get(n) + (tab === 0 ? skew : -skew)).filter((time) => !Number.isNaN(time)),
      );
      // Got before it was released: the lock let both in.
      const early = times.filter((time) => time < 0).length;
      return { times: times.filter((time) => time >= 0), early, skew, rtt, failed: only(logs) };
    },
  },

  again: {
    contenders: [...LOCKS, BARE],
    async run(tabs, contender, options) {
      const [tab] = await tabs.with(contender, 1);
      const lock = fresh("again");
      const { failed } = await tab.evaluate((options) => warmUp(options), { lock, ops: 5 });
      return failed ? { times: [], failed } : tab.evaluate((options) => again(options), { lock, ...options });
    },
  },

  fenced: {
    contenders: [SUBJECT],
    async run(tabs, contender, options) {
      const [tab] = await tabs.with(contender, 1);
      return tab.evaluate((options) => fenced(options), { lock: fresh("fenced"), ...options });
    },
  },

  contention: {
    contenders: LOCKS,
    async run(tabs, contender, { tabs: counts, ms }) {
      const sizes = {};
      const all = await tabs.with(contender, Math.max(...counts));
      for (const count of shuffled(counts)) {
        const used = all.slice(0, count);
        const lock = fresh("contention");
        await Promise.all(used.map((tab, n) => tab.evaluate((options) => warmUp(options), { lock: `${lock} warm ${n}` })));
        const options = { lock, ms, startAt: Date.now() + 400 };
        const logs = await Promise.all(used.map((tab) => tab.evaluate((options) => contend(options), options)));
        const counted = await used[0].evaluate((lock) => counter.read(lock), lock);
        const sections = logs.map(({ sections }) => sections);
        const total = sections.reduce((sum, n) => sum + n, 0);
        const longest = Math.max(...logs.flatMap(({ waits }) => waits));
        sizes[count] = {
          perSecond: (total * 1000) / ms,
          sections,
          lost: total - counted,
          mostToLeast: Math.max(...sections) / Math.min(...sections),
          longest,
          // A round: every tab has had its turn.
          longestInRounds: longest / ((ms * count) / total),
          late: Math.max(...logs.map(({ late }) => late ?? 0)),
          errors: logs.flatMap(({ errors }) => errors),
          failed: only(logs),
        };
      }
      return sizes;
    },
  },
};
// The same, with pauses in between.
SCENARIOS.cold = SCENARIOS.again;

/**
 * Every contender holds a lock that nobody wants, all at the same time, each page on an origin of its
 * own (storage events go to all pages of one). Next to them, a page that does nothing.
 */
async function idle(browser, { settled, ms }) {
  const names = shuffled([...LOCKS, IDLE]);
  // A new name: a page that was closed may have left its lock behind.
  const lock = fresh("kept");
  const { port } = new URL(browser.origin);
  const opened = [];
  // One after the other: `open` takes the next page that appears for its own.
  for (const name of names) {
    const query = new URLSearchParams({ contender: name === IDLE ? "" : name, count: "" });
    const host = `${name.replace(/[^a-z]+/g, "-").replace(/-$/, "")}.localhost`;
    const tab = await browser.open(`http://${host}:${port}/bench/page.html?${query}`);
    const { failed } = name === IDLE ? {} : await tab.evaluate((options) => keep(options), { lock });
    const devtools = await tab.context().newCDPSession(tab);
    await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
    await Promise.all(tab.workers().map((worker) => worker.evaluate(`(${watchWrites})(globalThis)`)));
    opened.push({ name, tab, devtools, failed });
  }
  const look = ({ tab, devtools }) =>
    Promise.all([
      devtools.send("Performance.getMetrics"),
      tab.evaluate(() => [performance.now(), window.writes]),
      ...tab.workers().map((worker) => worker.evaluate(() => [0, globalThis.writes])),
    ]).then(([{ metrics }, [at, ...here], ...workers]) => ({
      at,
      task: metrics.find(({ name }) => name === "TaskDuration").value * 1000,
      writes: [here, ...workers.map(([, n]) => n)].flat().reduce((sum, n) => sum + (n ?? 0), 0),
    }));
  // What loading and acquiring set off has settled by then.
  await pause(settled);
  const before = await Promise.all(opened.map(look));
  await pause(ms);
  const after = await Promise.all(opened.map(look));
  const result = {};
  for (const [n, { name, tab, failed }] of opened.entries()) {
    const seconds = (after[n].at - before[n].at) / 1000;
    result[name] = {
      writesPerSecond: (after[n].writes - before[n].writes) / seconds,
      taskMsPerSecond: (after[n].task - before[n].task) / seconds,
      workers: tab.workers().length,
      failed,
    };
    await tab.close();
  }
  return result;
}

/** Which contenders a scenario is run with: the other checkout wherever this one is. */
const among = (contenders, before) => (before ? contenders.flatMap((name) => (name === SUBJECT ? [name, BEFORE] : [name])) : contenders);

/**
 * Runs it all; resolves with what every round measured, as it is. `before`: a folder with another checkout
 * of this package, built, to be measured beside it.
 */
export async function measure(plan, { say = () => {}, before } = {}) {
  const served = await pages(before);
  const browser = await launch({ answer: served.answer });
  try {
    const { product } = await browser.devtools.send("Browser.getVersion");
    const tabs = new Tabs(browser);
    // All windows are there before anything is measured.
    await tabs.with("", Math.max(2, ...plan.contention.tabs));
    await pause(1_000);
    const rounds = [];
    const begun = Date.now();
    for (let n = 0; n < plan.rounds; n++) {
      if (n > 0 && ((Date.now() - begun) / n) * (n + 1) > plan.limit) break;
      const round = {};
      for (const scenario of shuffled(Object.keys(SCENARIOS))) {
        say(`round ${n + 1} of ${plan.rounds}: ${scenario}`);
        const { contenders, run } = SCENARIOS[scenario];
        round[scenario] = {};
        for (const contender of shuffled(among(contenders, before))) {
          round[scenario][contender] = await run(tabs, contender, plan[scenario]);
        }
      }
      await tabs.with("", 1);
      say(`round ${n + 1} of ${plan.rounds}: idle`);
      round.idle = await idle(browser, plan.idle);
      say(`round ${n + 1} of ${plan.rounds}: many names, calls, tabs`);
      round.many = {};
      for (const contender of shuffled(among([SUBJECT], before))) round.many[contender] = await many(browser, contender, plan.many);
      rounds.push(round);
    }
    const state = await tabs.state();
    return {
      browser: product,
      hidden: state.filter(({ visible }) => !visible).length,
      coarse: state.filter(({ isolated }) => !isolated).length,
      rounds,
    };
  } finally {
    await browser.close();
    served.remove();
  }
}
