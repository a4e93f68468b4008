// The shared counter: read it in one transaction, write it in another. That is how updates get lost,
// and what a lock is for.
import { $, badge, el, setText } from "./dom.js";
import { answers, hueOf, me, on, send } from "./tabs.js";

const LOCK = "the demo's counter";
const EACH = 50; // updates by each tab
const PAUSE_MS = 4; // between read and write: the "work"
const JOIN_MS = 250; // how long the tabs have to say that they take part
const SHOWN = 6; // runs

// ---- the store -------------------------------------------------------------------------------

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const completed = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });

/** Runs `use(db)` on the counter's database, which has nothing to do with the one of the leases. */
async function withDatabase(use) {
  const opening = indexedDB.open("tab-lease-demo", 1);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore("counter");
    // Who wrote which value, in the order of the commits: the evidence.
    opening.result.createObjectStore("writes", { autoIncrement: true });
  };
  const db = await result(opening);
  db.onversionchange = () => db.close();
  try {
    return await use(db);
  } finally {
    db.close();
  }
}

const read = async (db) => (await result(db.transaction("counter").objectStore("counter").get("value"))) ?? 0;

function write(db, value, run) {
  const transaction = db.transaction(["counter", "writes"], "readwrite", { durability: "relaxed" });
  transaction.objectStore("counter").put(value, "value");
  transaction.objectStore("writes").add({ run, tab: me, value });
  return completed(transaction);
}

/** Pauses by messages, not by a timer: a hidden tab's timers would take a second each. */
async function pause(ms) {
  const { port1, port2 } = new MessageChannel();
  for (const end = performance.now() + ms; performance.now() < end; ) {
    await new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
  }
  port1.close();
}

// ---- one tab's part in a run -----------------------------------------------------------------

async function addOne(db, run, lease) {
  const value = await read(db);
  await pause(PAUSE_MS);
  lease?.signal.throwIfAborted(); // lost meanwhile: the value that was read is out of date
  await write(db, value + 1, run);
}

/** This tab's updates of a run. Resolves with an error's text if it had to stop early. */
async function takePart(locks, { run, locked }) {
  try {
    await withDatabase(async (db) => {
      for (let i = 0; i < EACH; i++) {
        if (locked) await locks.withLease(LOCK, (lease) => addOne(db, run, lease));
        else await addOne(db, run);
      }
    });
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

// ---- a run, of all tabs ----------------------------------------------------------------------

/** Which updates the final value still has in it: walk back from it; each value stands on the one below. */
function audit(writes, found) {
  let wanted = found;
  for (let i = writes.length - 1; i >= 0; i--) {
    writes[i].kept = writes[i].value === wanted;
    if (writes[i].kept) wanted--;
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let busy; // the tab that runs a run, and the others wait for its result
let joined; // names of those who take part, while this tab asks
let done; // tab → error text or undefined, while this tab's run runs
let frozen = false;

async function start(locks, locked) {
  if (running()) return;
  const run = crypto.getRandomValues(new Uint32Array(2)).join("-");
  setBusy(me, "Calling the other tabs…");
  try {
    joined = new Set([me]);
    send("join?", { run });
    await sleep(JOIN_MS);
    const tabs = [...joined];
    const before = await withDatabase(read);
    done = new Map();
    send("go", { run, locked, tabs });
    setBusy(me, `${many(tabs.length, "tab")} at work, ${locked ? "with" : "without"} the lock…`);
    done.set(me, await takePart(locks, { run, locked }));
    while (!tabs.every((tab) => done.has(tab) || !answers(tab))) await sleep(100);
    const [found, all] = await withDatabase((db) =>
      Promise.all([read(db), result(db.transaction("writes").objectStore("writes").getAll())]),
    );
    const writes = all.filter((entry) => entry.run === run);
    audit(writes, found);
    const outcome = { locked, tabs, before, found, writes, stopped: [...done].filter(([, error]) => error) };
    send("result", { outcome });
    showResult(outcome);
  } catch (error) {
    send("result", {});
    setBusy(undefined, `The run failed: ${error.name}: ${error.message}`);
  } finally {
    joined = done = undefined;
  }
}

/** A run whose tab has died does not block the next one. */
const running = () => busy !== undefined && answers(busy);

function setBusy(tab, text) {
  busy = tab;
  for (const id of ["add-locked", "add-unlocked", "reset"]) $(id).setAttribute("aria-disabled", String(running()));
  setText($("counter-status"), text);
}

const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function showResult({ locked, tabs, before, found, writes, stopped }) {
  const lost = before + writes.length - found;
  const headline = lost ? `${lost} of ${many(writes.length, "update")} lost` : `0 of ${many(writes.length, "update")} lost`;
  let advice = "";
  if (tabs.length < 2) advice = "Only this tab took part, and one tab alone loses nothing: open another tab, and add again.";
  else if (lost) advice = `${locked ? "With" : "Without"} the lock: ${headline}. Now try it with the lock.`;
  else advice = `${locked ? "With" : "Without"} the lock: ${headline}.`;
  setBusy(undefined, advice);
  setText($("counter"), String(found));

  const strip = el("div", { class: "strip", "aria-hidden": "true" });
  for (const { tab, kept } of writes) {
    const cell = el("i", { class: kept ? "kept" : "dropped" });
    cell.style.setProperty("--hue", hueOf(tab));
    strip.append(cell);
  }
  $("runs").prepend(
    el(
      "li",
      { class: lost ? "lossy" : "clean" },
      el("p", { class: "headline" }, headline),
      el(
        "p",
        { class: "facts" },
        `${locked ? "With" : "Without"} the lock, by `,
        ...tabs.flatMap((tab) => [badge(tab, hueOf(tab)), " "]),
        el("span", { class: "muted" }, `counter at ${before}; expected ${before + writes.length}, found ${found}`),
      ),
      strip,
      ...stopped.map(([tab, error]) => el("p", { class: "muted" }, `${tab} stopped early: ${error}`)),
    ),
  );
  while ($("runs").children.length > SHOWN) $("runs").lastChild.remove();
}

function showValue(value) {
  setText($("counter"), String(value));
}

function cleared() {
  $("runs").replaceChildren();
  showValue(0);
  setBusy(undefined, "The counter is 0 again.");
}

async function reset() {
  if (running()) return;
  try {
    await withDatabase((db) => {
      const transaction = db.transaction(["counter", "writes"], "readwrite");
      transaction.objectStore("counter").clear();
      transaction.objectStore("writes").clear();
      return completed(transaction);
    });
    send("reset");
    cleared();
  } catch (error) {
    setText($("counter-status"), `The reset failed: ${error.name}: ${error.message}`);
  }
}

/** Wires up the counter's part of the page. */
export function startCounter(locks) {
  $("add-locked").onclick = () => start(locks, true);
  $("add-unlocked").onclick = () => start(locks, false);
  $("reset").onclick = reset;

  // A frozen tab still hears messages, and a transaction that it begins then blocks all tabs for a minute.
  document.addEventListener("freeze", () => (frozen = true));
  document.addEventListener("resume", () => (frozen = false));
  on("join?", ({ run }) => frozen || send("joins", { run }));
  on("joins", ({ from }) => joined?.add(from));
  on("go", async ({ from, run, locked, tabs }) => {
    // A tab that answered too late (it hung) is not expected to count.
    if (!tabs.includes(me)) return;
    setBusy(from, `${many(tabs.length, "tab")} at work, ${locked ? "with" : "without"} the lock…`);
    send("counted", { error: await takePart(locks, { run, locked }) });
  });
  on("counted", ({ from, error }) => done?.set(from, error));
  on("result", ({ outcome }) => (outcome ? showResult(outcome) : setBusy(undefined, "The run failed.")));
  on("reset", cleared);

  setBusy(undefined, "");
  setInterval(() => busy && !running() && setBusy(undefined, "The tab that led the run is gone."), 1000);
  withDatabase(read).then(showValue, (error) => setText($("counter-status"), `${error.name}: ${error.message}`));
}
