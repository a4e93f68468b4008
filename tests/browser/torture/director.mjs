// Does to the tabs what the schedule says, and gathers what they tell.
import { setTimeout as pause } from "node:timers/promises";
import { launch } from "../chromium.mjs";
import { schedule, SLOTS } from "./schedule.mjs";
import { judge, LONGEST_LEASE } from "./verdict.mjs";

const FOLDER = "/tests/browser/torture";
/** How long an action may take, in ms; what does not get through to a hung or frozen tab is given up. */
const PATIENCE = 5_000;
/** How long the loops may take to end, in ms: the longest request, the longest stall, and some. */
const STOP = 90_000;

const within = (promise, ms) => Promise.race([promise, pause(ms, "late", { ref: false })]);

/** The time in ms, by the clock that the pages have, too. */
const now = () => performance.timeOrigin + performance.now();

/** What can be done. Each is told the slot, where there is one, and the event. */
const actions = (browser, recorder, alone, page) => ({
  async open(slot, event) {
    slot.tab = await browser.open(page(event));
    slot.session = await slot.tab.context().newCDPSession(slot.tab);
    slot.windowId = (await slot.session.send("Browser.getWindowForTarget")).windowId;
  },
  async kill({ tab, session }) {
    const crashed = new Promise((resolve) => tab.once("crash", resolve));
    session.send("Page.crash").catch(() => {});
    await within(crashed, PATIENCE);
    await tab.close();
  },
  close: ({ tab }) => tab.close(),
  hang({ session }, { ms }) {
    const expression = `{ const end = performance.now() + ${ms}; while (performance.now() < end); }`;
    session.send("Runtime.evaluate", { expression }).catch(() => {});
  },
  hide: ({ windowId }) =>
    browser.devtools.send("Browser.setWindowBounds", { windowId, bounds: { windowState: "minimized" } }),
  show: ({ windowId }) =>
    browser.devtools.send("Browser.setWindowBounds", { windowId, bounds: { windowState: "normal" } }),
  async freeze({ tab, session }) {
    await within(tab.evaluate(() => window.torture?.still()), 500);
    await session.send("Page.setWebLifecycleState", { state: "frozen" });
  },
  resume: ({ session }) => session.send("Page.setWebLifecycleState", { state: "active" }),
  reload: ({ session }) => session.send("Page.reload"),
  async navigate({ tab }) {
    await within(tab.evaluate(() => window.torture?.still()), 500);
    await tab.evaluate((url) => void (location.href = url), `${FOLDER}/away.html`);
  },
  // It may be gone before it has answered.
  back: ({ tab }) => tab.evaluate(() => void history.back()).catch(() => {}),
  worker: ({ tab }) => tab.evaluate(() => torture.replace("dedicated")),
  iframe: ({ tab }) => tab.evaluate(() => torture.replace("iframe")),
  service: () => recorder.session.send("ServiceWorker.stopAllWorkers"),
  shared: () => alone.tab.evaluate(() => torture.replace("shared")),
});

/** Does what the events say, when they say it. `done` gets what was done, and when. */
async function conduct(events, act, slots, start, done) {
  const inTurn = async (events) => {
    for (const event of events) {
      await pause(Math.max(0, start + event.at - now()));
      const entry = { what: "event", ...event, at: Math.round(now() - start) };
      done.push(entry);
      const acted = (async () => act[event.action](slots[event.slot], event))();
      const result = await within(
        acted.catch((error) => `failed: ${error.message.split("\n")[0]}`),
        PATIENCE,
      );
      if (typeof result === "string") entry.result = result;
    }
  };
  // Those of one tab come one after the other; no tab waits for another that hangs.
  const turns = new Map(events.map(({ slot, action }) => [slot ?? action, []]));
  for (const event of events) turns.get(event.slot ?? event.action).push(event);
  await Promise.all([...turns.values()].map(inTurn));
}

/** Lets all tabs run that are left, to see that they are not stuck. */
async function letRun(left, act) {
  const shown = (slot) => act.resume(slot).then(() => act.show(slot));
  await Promise.all(left.map((slot) => within(shown(slot).catch(() => {}), PATIENCE)));
}

/**
 * Runs the events of a seed, or those given. `locked: false` leaves the lock out. Resolves with the
 * verdict, the events as they were run, and the whole log.
 */
export async function torture({ seed, ms, events = schedule(seed, ms), locked = true, say = () => {} }) {
  const browser = await launch();
  const settings = { seed, locked };
  const page = ({ slot, with: kinds }) => {
    const what = JSON.stringify({ ...settings, place: `tab ${slot}`, with: kinds });
    return `${FOLDER}/page.html?${encodeURIComponent(what)}`;
  };
  const recorder = {};
  const alone = {};
  const slots = Array.from({ length: SLOTS + 1 }, () => ({}));
  const act = actions(browser, recorder, alone, page);
  const done = [];
  const entries = [];
  const drain = async () => entries.push(...(await recorder.tab.evaluate(() => drain())));
  let over = false;
  const follow = async (start) => {
    for (let next = start + 10_000; !over; await pause(250)) {
      await drain();
      if (now() < next) continue;
      next += 10_000;
      const sections = entries.filter(({ what }) => what === "wrote").length;
      say(`${Math.round((now() - start) / 1000)} s: ${done.length} events, ${sections} sections`);
    }
  };
  try {
    recorder.tab = await browser.open(`${FOLDER}/recorder.html`);
    recorder.session = await recorder.tab.context().newCDPSession(recorder.tab);
    await recorder.session.send("ServiceWorker.enable");
    await recorder.tab.evaluate((settings) => begin(settings), settings);
    await act.open(alone, { slot: 0, with: ["iframe", "dedicated", "shared"] });

    const start = now();
    const followed = follow(start);
    // If it fails, that is told below.
    followed.catch(() => {});
    await conduct(events, act, slots, start, done);
    await pause(Math.max(0, start + ms - now()));

    const left = [alone, ...slots.filter(({ tab }) => tab && !tab.isClosed())];
    await letRun(left, act);
    const ended = [
      recorder.tab.evaluate(() => end()),
      ...left.map(({ tab }) => tab.evaluate(() => window.torture?.stop())),
    ];
    await within(Promise.all(ended.map((end) => end.catch(() => {}))), STOP);
    over = true;
    await followed;
    await Promise.all(left.map(({ tab }) => within(tab.close().catch(() => {}), PATIENCE)));
    const final = await recorder.tab.evaluate((timeout) => takeAll(timeout), LONGEST_LEASE + STOP);
    const { values, rows } = await recorder.tab.evaluate(() => audit());
    await drain();
    const verdict = judge({ entries, values, rows, final, ms });
    const log = [...done.map((event) => ({ ...event, at: event.at + start })), ...entries].sort(
      (a, b) => a.at - b.at,
    );
    return { seed, ms, start, events: done, log, rows, verdict };
  } finally {
    over = true;
    await browser.close();
  }
}
