// A late write: this tab takes a lock, hangs for longer than its lease lasts, wakes up and writes, with the
// fence and without. Meanwhile the other tabs take over and write. The leases are in the notes' own database.
import { addLeaseStore, createLocks, LEASE_STORE } from "../js/index.js";
import { $, badge, el, setText } from "./dom.js";
import { hueOf, me, on, send } from "./tabs.js";

const LOCK = "the demo's note";
const LEASE_MS = 1000;
const HANG_MS = 3000;
const JOIN_MS = 1500; // how long the other tabs have to wait for the lock
/** Two copies of the note: one is written by fenced transactions only. */
const COPIES = { fenced: "With the fence", bare: "Without it" };

// ---- the store -------------------------------------------------------------------------------

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opened;

/** The notes' database, and locks in it. */
function open() {
  opened ??= (async () => {
    const opening = indexedDB.open("tab-lease-demo-notes", 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("notes");
      addLeaseStore(opening.result);
    };
    const db = await result(opening);
    db.onversionchange = () => {
      db.close();
      opened = undefined;
    };
    return { db, locks: createLocks({ database: db, holder: me, leaseMs: LEASE_MS }) };
  })();
  return opened;
}

/** Writes one copy as this tab. Resolves with the error, if nothing was committed. */
function write(db, lease, copy, when) {
  const transaction = db.transaction(["notes", LEASE_STORE], "readwrite");
  const checked = copy === "fenced" ? lease.fence(transaction) : undefined;
  transaction.objectStore("notes").put({ tab: me, token: lease.token, when }, copy);
  return new Promise((resolve) => {
    transaction.oncomplete = () => resolve(undefined);
    transaction.onabort = async () => resolve((await checked?.then(() => {}, (error) => error)) ?? transaction.error);
  });
}

/** The same; an error that is thrown at once is one as well. */
const tryToWrite = async (...args) => {
  try {
    return await write(...args);
  } catch (error) {
    return error;
  }
};

// ---- a run -----------------------------------------------------------------------------------

async function run() {
  if ($("late").getAttribute("aria-disabled") === "true") return;
  busy(true, "Taking the lock, and asking the other tabs to wait for it…");
  let lease;
  try {
    const { db, locks } = await open();
    lease = await locks.acquire(LOCK, { timeout: 5_000 });
    await Promise.all(Object.keys(COPIES).map((copy) => write(db, lease, copy, "first")));
    send("late?");
    for (const end = Date.now() + JOIN_MS; (await locks.query()).pending.length === 0; ) {
      if (Date.now() > end) return busy(false, "No other tab waits, so nothing can go wrong: open another tab, and try again.");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    busy(true, `This tab hangs now, for ${HANG_MS / 1000} s. Its lease lasts ${LEASE_MS / 1000} s.`);
    await new Promise((resolve) => setTimeout(resolve, 100)); // so that this is seen
    const end = performance.now() + HANG_MS;
    while (performance.now() < end);
    // Awake, and knowing nothing of having been away.
    const [refusal, error] = await Promise.all([tryToWrite(db, lease, "fenced", "late"), tryToWrite(db, lease, "bare", "late")]);
    await show();
    send("late");
    busy(false, refusal ? "" : "Nobody took over while this tab hung, so its write was in order. Try again.", refusal);
    if (error) throw error;
  } catch (error) {
    busy(false, `It failed: ${error.name}: ${error.message}`);
  } finally {
    await lease?.release();
  }
}

/** Another tab goes to sleep: this one takes over from it, and writes. */
async function takeOver() {
  try {
    const { db, locks } = await open();
    await locks.withLease(LOCK, { timeout: 2 * HANG_MS }, (lease) =>
      Promise.all(Object.keys(COPIES).map((copy) => write(db, lease, copy, "meanwhile"))),
    );
    await show();
  } catch {
    // That tab woke up in time.
  }
}

// ---- what is seen ----------------------------------------------------------------------------

function busy(yes, text, refusal) {
  $("late").setAttribute("aria-disabled", String(yes));
  setText($("late-status"), text);
  $("late-refusal").replaceChildren();
  if (!refusal) return;
  $("late-refusal").append(
    el(
      "div",
      { class: "notice" },
      el("p", { class: "headline" }, "The late write was refused ", el("code", {}, String(refusal.code ?? refusal.name))),
      el("p", {}, `${refusal.name}: ${refusal.message}`),
      el("p", {}, "Without the fence it went through, over what the other tab had written meanwhile."),
    ),
  );
}

const WHEN = { first: "before it fell asleep", meanwhile: "after it took over", late: "late, when it woke up" };

async function show() {
  const { db } = await open();
  const notes = db.transaction("notes").objectStore("notes");
  const found = await Promise.all(Object.keys(COPIES).map((copy) => result(notes.get(copy))));
  $("late-notes").replaceChildren(
    ...Object.entries(COPIES).map(([copy, title], n) => {
      const note = found[n];
      const stale = note?.when === "late";
      return el(
        "li",
        { class: stale ? "lossy" : "clean" },
        el("p", { class: "muted" }, title),
        el("p", { class: "headline" }, note ? badge(note.tab, hueOf(note.tab)) : "–"),
        el("p", { class: "facts" }, note ? `wrote it ${WHEN[note.when]}, with token ${note.token}` : "Nobody has written it yet."),
      );
    }),
  );
}

/** Wires up the late write's part of the page. */
export function startLate() {
  $("late").onclick = run;
  // A frozen tab still hears messages, and a transaction that it begins then blocks all tabs for a minute.
  let frozen = false;
  document.addEventListener("freeze", () => (frozen = true));
  document.addEventListener("resume", () => (frozen = false));
  on("late?", () => frozen || takeOver());
  on("late", () => frozen || show());
  show().catch((error) => setText($("late-status"), `${error.name}: ${error.message}`));
}
