// Does to the tabs what the schedule says, and gathers what they tell.
import { setTimeout as pause } from "node:timers/promises";
import { launch } from "../chromium.mjs";
import { schedule, SLOTS } from "./schedule.mjs";
import { FINAL, judge } from "./verdict.mjs";

const FOLDER = "/tests/browser/torture";
/** How long an action may take, in ms; what does not get through to a hung or frozen tab is given up. */
const PATIENCE = 5_000;
/** How long the loops may take to end, in ms: the longest request, the longest stall, and some. */
const STOP = 90_000;

const within = (promise, ms) => Promise.race([promise, pause(ms, "late", { ref: false })]);

/** What can be done to a tab. Each is told the slot and the event. */
const actions = (browser, page) => ({
  async open(slot, event) {
    slot.tab = await browser.open(page(event));
    slot.session = await slot.tab.context().newCDPSession(slot.tab);
    slot.windowId = (await slot.session.send("Browser.getWindowForTarget")).windowId;
  },
  async kill(slot) {
    const { tab } = slot;
    const crashed = new Promise((resolve) => tab.once("crash", resolve));
    slot.session.send("Page.crash").catch(() => {});
    await within(crashed, PATIENCE);
    await tab.close();
  },
  close: (slot) => slot.tab.close(),
  hang(slot, { ms }) {
    const expression = `{ const end = performance.now() + ${ms}; while (performance.now() < end); }`;
    slot.session.send("Runtime.evaluate", { expression }).catch(() => {});
  },
  hide: ({ windowId }) => browser.devtools.send("Browser.setWindowBounds", { windowId, bounds: { windowState: "minimized" } }),
  show: ({ windowId }) => browser.devtools.send("Browser.setWindowBounds", { windowId, bounds: { windowState: "normal" } }),
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
});

/**
 * Runs the events of a seed, or those given. `locked: false` leaves the lock out. Resolves with the
 * verdict, the events as they were run, and the whole log.
 */
export async function torture({ seed, ms, events = schedule(seed, ms), locked = true, say = () => {} }) {
  const browser = await launch();
  const entries = [];
  const settings = { seed, locked };
  const page = ({ slot, with: kinds }) =>
    `${FOLDER}/page.html?${encodeURIComponent(JSON.stringify({ ...settings, place: `tab ${slot}`, with: kinds }))}`;
  try {
    const recorder = await browser.open(`${FOLDER}/recorder.html`);
    const drain = async () => entries.push(...(await recorder.evaluate(() => drain())));
    await recorder.evaluate((settings) => begin(settings), settings);
    const recorderSession = await recorder.context().newCDPSession(recorder);
    await recorderSession.send("ServiceWorker.enable");
    const act = actions(browser, page);
    act.service = () => recorderSession.send("ServiceWorker.stopAllWorkers");
    act.shared = () => alone.tab.evaluate(() => torture.replace("shared"));
    const alone = {};
    await act.open(alone, { slot: 0, with: ["iframe", "dedicated", "shared"] });

    const slots = Array.from({ length: SLOTS + 1 }, () => ({}));
    const start = performance.timeOrigin + performance.now();
    const elapsed = () => performance.timeOrigin + performance.now() - start;
    const done = [];
    /** Those of one tab, or of all that is no tab, one after the other. */
    const run = async (events) => {
      for (const event of events) {
        await pause(Math.max(0, event.at - elapsed()));
        const entry = { ...event, at: Math.round(elapsed()), what: "event" };
        done.push(entry);
        const acted = (async () => act[event.action](slots[event.slot], event))();
        const result = await within(acted.catch((error) => `failed: ${error.message.split("\n")[0]}`), PATIENCE);
        if (typeof result === "string") entry.result = result;
      }
    };
    const groups = new Map(events.map(({ slot, action }) => [slot ?? action, []]));
    for (const event of events) groups.get(event.slot ?? event.action).push(event);
    let over = false;
    const watched = (async () => {
      for (let told = 0; !over; await pause(250)) {
        await drain();
        if (elapsed() - told < 10_000) continue;
        told = elapsed();
        say(`${Math.round(told / 1000)} s: ${done.length} events, ${entries.filter(({ what }) => what === "wrote").length} sections`);
      }
    })();
    await Promise.all([...groups.values()].map(run));
    await pause(Math.max(0, ms - elapsed()));

    // All who are left are let run, to see that they are not stuck.
    const left = [alone, ...slots.filter(({ tab }) => tab && !tab.isClosed())];
    await Promise.all(left.map((slot) => within(act.resume(slot).then(() => act.show(slot)).catch(() => {}), PATIENCE)));
    const ended = [recorder.evaluate(() => end()), ...left.map(({ tab }) => tab.evaluate(() => window.torture?.stop()))];
    await within(Promise.all(ended.map((end) => end.catch(() => {}))), STOP);
    over = true;
    await watched;
    await drain();
    await Promise.all(left.map(({ tab }) => within(tab.close().catch(() => {}), PATIENCE)));
    const final = await recorder.evaluate((timeout) => takeAll(timeout), FINAL + STOP);
    const { values, rows } = await recorder.evaluate(() => audit());
    await drain();
    const verdict = judge({ entries, values, rows, final, ms });
    const log = [...done.map((event) => ({ ...event, at: event.at + start })), ...entries].sort((a, b) => a.at - b.at);
    return { seed, ms, start, events: done, log, rows, verdict };
  } finally {
    await browser.close();
  }
}
