// The demo: what this tab does with the lock, and who holds it. timeline.js shows what all tabs
// did, counter.js what a lock is good for, tabs.js how the tabs hear of each other.
import { createLocks } from "../js/index.js";
import { startCounter } from "./counter.js";
import { $, badge, el, elapsed, nameElement, setText } from "./dom.js";
import { startLate } from "./late.js";
import { announce, answers, events, hello, hueOf, join, me, on } from "./tabs.js";
import { drawLog, startTimeline } from "./timeline.js";

// Longer than the default, so that a person sees a lease expire.
const LEASE_MS = 3000;
const POLL_MS = 500;
const HELLO_MS = 2000;

await join();
const locks = createLocks({ holder: me, leaseMs: LEASE_MS });

// ---- the name --------------------------------------------------------------------------------

const ODD_NAMES = [
  ["__proto__", "__proto__"],
  ["markup", "<img src=x onerror=alert(1)>"],
  ["emoji and quotes", "😀\"'"],
  ["10,000 characters", "long ".repeat(2000)],
  ["a lone surrogate", "\uD800"],
  ["right to left", "\u202Eلقفل"],
];

const lockName = () => $("name").value;

/** The name is in the address, for the next tab. As JSON, because a lone surrogate has no URL form of its own. */
const toHash = (name) => `#${encodeURIComponent(JSON.stringify(name))}`;

function fromHash() {
  try {
    const name = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    if (typeof name === "string") return name;
  } catch {
    // No name, or not one of ours.
  }
  return "demo";
}

/** Control and format characters, lone surrogates, line ends: what no font shows. */
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}]/u;

function nameHint() {
  if (phase !== "idle") return "Release, or cancel the wait, to choose another lock.";
  const name = lockName();
  if (name.length > 80) return `${name.length.toLocaleString("en")} characters`;
  if (!INVISIBLE.test(name)) return "The tabs that use the same name share the lock.";
  return `Spelled out: ${name.replace(new RegExp(INVISIBLE, "gu"), (char) => `\\u{${char.codePointAt(0).toString(16)}}`)}`;
}

function nameChanged() {
  setText($("name-hint"), nameHint());
  $("notice").replaceChildren();
  $("lock-name").replaceChildren(nameElement(lockName()));
  drawLog(lockName());
  refresh();
}

function chooseName(name) {
  if (phase !== "idle") return;
  $("name").value = name;
  keepName();
  nameChanged();
}

function keepName() {
  try {
    history.replaceState(null, "", toHash(lockName()));
  } catch {
    // Some browsers allow only so many of these; the address is a convenience.
  }
}

// ---- what this tab does ----------------------------------------------------------------------

let phase = "idle"; // or "waiting", or "holding"
let since = 0; // when the phase began
let until; // when a timed hold ends
let lease; // while holding
let waiting; // the AbortController of the wait

const ADVICE = {
  TIMEOUT: "Another tab holds the lock. Release it there, wait longer, or try again.",
  BAD_ARGUMENT: "Change what was given: nothing was asked for yet.",
  LEASE_SUPERSEDED: "What the lock protects must not be written any more. Acquire again, and reload it first.",
  LEASE_EXPIRED: "What the lock protects must not be written any more. Acquire again, and reload it first.",
  LEASE_SUSPENDED: "This tab was frozen, and let go before. Acquire again, and reload what the lock protects first.",
  LEASE_STORE_CLOSED: "The database was deleted or upgraded. Acquire again, and reload what the lock protects first.",
  LEASE_STORE_FAILED: "What the lock protects must not be written any more. Acquire again once IndexedDB works.",
  STORE_UNAVAILABLE: "Allow site data for this page, or leave the private window.",
  STORE_BLOCKED: "Close the other tabs of this page.",
  STORE_FOREIGN: "Another program owns this database. Clear this site’s data.",
  STORE_STALLED: "Another tab may hang in the middle of a transaction. Try again, or close that tab.",
  STORE_CORRUPT: "The lease’s record was left as it is. Clear this site’s data, or use another name.",
  STORE_FAILED: "Try again; if it stays, there may be no space left on the disk.",
  STORE_LOAD_FAILED: "The wasm did not load. Check the network, and try again.",
};

function showNotice(error, lost) {
  $("notice").replaceChildren(
    el(
      "div",
      { class: lost ? "notice bad lost" : "notice bad" },
      el("p", { class: "headline" }, lost ? "The lease was lost" : String(error?.name ?? "Error"), " ", el("code", {}, String(error?.code ?? ""))),
      el("p", {}, lost ? `${error.name}: ${error.message}` : String(error?.message ?? error)),
      el("p", {}, el("strong", {}, "What to do: "), ADVICE[error?.code] ?? "Try again; if it stays, reload the page."),
    ),
  );
}

function say(text) {
  $("notice").replaceChildren(el("p", { class: "notice" }, text));
}

function setPhase(next, detail) {
  phase = next;
  since = Date.now();
  if (next !== "holding") until = undefined;
  setText($("phase"), { idle: "Idle", waiting: "Waiting…", holding: `Holding, token ${lease?.token}` }[next]);
  setText($("phase-detail"), detail ?? "");
  $("status").dataset.phase = next;
  // aria-disabled, not disabled: a button that was just pressed keeps the focus.
  const enable = (id, yes) => $(id).setAttribute("aria-disabled", String(!yes));
  for (const id of ["acquire", "try", "hold"]) enable(id, next === "idle");
  for (const button of $("odd-names").children) button.setAttribute("aria-disabled", String(next !== "idle"));
  enable("cancel", next === "waiting");
  enable("release", next === "holding");
  $("name").readOnly = next !== "idle";
  setText($("name-hint"), nameHint());
  document.title = { idle: `${me} · tab-lease`, waiting: `○ ${me} waits`, holding: `● ${me} holds` }[next];
  $("icon").href = icon(next);
  refresh();
}

/** A dot in this tab's colour, full while it holds. */
const icon = (next) =>
  `data:image/svg+xml,${encodeURIComponent(
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6" stroke-width="3"
      stroke="hsl(${hueOf(me)} 60% 50%)" fill="${next === "holding" ? `hsl(${hueOf(me)} 60% 50%)` : "none"}"/></svg>`,
  )}`;

/** Asks for the lock by `ask(name, signal)`, and shows what comes of it. Resolves with whether it is held. */
async function take(ask) {
  const name = lockName();
  const asked = Date.now();
  waiting = new AbortController();
  setPhase("waiting");
  $("notice").replaceChildren();
  // A lock that is free is had at once: no wait worth telling.
  const slow = setTimeout(() => announce({ lock: name, kind: "waits", at: asked }), 60);
  try {
    lease = await ask(name, waiting.signal);
  } catch (error) {
    lease = undefined;
    if (waiting.signal.aborted) say("Cancelled: nothing is held.");
    else showNotice(error);
    const kind = waiting.signal.aborted ? "cancelled" : error?.code === "TIMEOUT" ? "timed out" : "failed";
    announce({ lock: name, kind, code: error?.code ?? error?.name });
  } finally {
    clearTimeout(slow);
  }
  if (lease === null) {
    say("Not now: another tab holds it. Try never waits.");
    announce({ lock: name, kind: "refused" });
  }
  if (!lease) {
    setPhase("idle");
    return false;
  }
  const taken = lease;
  announce({ lock: name, kind: "acquired", token: taken.token, dirty: taken.dirty });
  setPhase("holding", `dirty: ${taken.dirty ? "yes, another tab may have written since this one last held" : "no, nobody else held it meanwhile"}`);
  if (taken.signal.aborted) lost(taken);
  else taken.signal.addEventListener("abort", () => lost(taken));
  return true;
}

/** The moment in which a tab hears that it holds no more. */
function lost(taken) {
  const error = taken.signal.reason;
  announce({ lock: taken.name, kind: "lost", token: taken.token, code: error.code });
  if (taken !== lease) return;
  lease = undefined;
  setPhase("idle");
  showNotice(error, true);
  taken.release(); // frees nothing, but says that this tab is through with it
}

async function release() {
  const taken = lease;
  await taken.release();
  if (taken !== lease) return; // lost meanwhile, or released twice
  lease = undefined;
  setPhase("idle");
  announce({ lock: taken.name, kind: "released", token: taken.token });
}

const acquire = () => {
  const text = $("timeout").value;
  const timeout = text === "" ? undefined : Number(text) * 1000;
  return take((name, signal) => locks.acquire(name, { signal, timeout }));
};

async function hold() {
  const ms = Number($("hold-seconds").value) * 1000;
  if (!(await acquire())) return;
  const taken = lease;
  until = Date.now() + ms;
  setTimeout(() => taken === lease && release(), ms);
}

/** Blocks this tab's thread, as a page with a bug does. */
async function hang() {
  const seconds = Number($("hang-seconds").value);
  announce({ lock: lockName(), kind: "hangs", seconds });
  $("notice").replaceChildren();
  setText($("phase-detail"), `Hanging for ${seconds} s…`);
  // The words must be painted and the announcement be on its way before nothing works any more.
  await new Promise((resolve) => setTimeout(resolve, 150));
  for (const end = performance.now() + seconds * 1000; performance.now() < end; );
  setText($("phase-detail"), `Awake again, after hanging for ${seconds} s.`);
}

/** The events of a page that the browser freezes, and lets go on. The page itself stays awake here. */
function freeze() {
  const frozen = $("freeze").getAttribute("aria-pressed") !== "true";
  $("freeze").setAttribute("aria-pressed", String(frozen));
  setText($("freeze"), frozen ? "Let it go on" : "Freeze this tab");
  // Before it stops, or when it goes on: a frozen page is silent.
  if (frozen) announce({ lock: lockName(), kind: "frozen" });
  document.dispatchEvent(new Event(frozen ? "freeze" : "resume"));
  if (!frozen) announce({ lock: lockName(), kind: "resumed" });
}

function hangHint() {
  const seconds = Number($("hang-seconds").value) || 0;
  const outcome =
    seconds * 1000 > LEASE_MS
      ? "If this tab holds the lock, a tab that waits takes over 3 s after the last renewal (up to 12 s, if it has waited for longer than that). When this tab wakes, it is told that its lease was lost."
      : "That is shorter than the 3 s lease: a tab that holds the lock keeps it.";
  setText($("hang-hint"), `This tab will answer to nothing for ${seconds} s. ${outcome}`);
}

// ---- who holds, who waits --------------------------------------------------------------------

const tabOf = (clientId) => clientId.slice(0, clientId.lastIndexOf("#"));

function person({ clientId, since, leaseMs }, ...more) {
  const tab = tabOf(clientId);
  const lease = (ms) => (ms === undefined ? "" : `, lease ${(ms / 1000).toLocaleString("en")} s,`);
  return [
    badge(tab, hueOf(tab)),
    el("span", {}, tab === me ? " this tab" : answers(tab) ? "" : " no answer", ...more, lease(leaseMs), " for ", el("span", { class: "ticking", "data-since": since })),
    el("code", { class: "client muted" }, clientId),
  ];
}

let shown; // what the card was made of: it is made anew only when that changes, lest an opened name close
let asking = false;
let again = false;

/** Asks the lock who holds and who waits. */
async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const { held, pending } = await locks.query();
    showLock(held, pending);
  } catch (error) {
    shown = undefined;
    $("lock").replaceChildren(el("p", { class: "notice bad" }, `${error.name}: ${error.message}`));
  }
  asking = false;
  if (again) {
    again = false;
    refresh();
  }
}

function showLock(held, pending) {
  const name = lockName();
  const holder = held.find((entry) => entry.name === name);
  const waiters = pending.filter((entry) => entry.name === name);
  const others = held.filter((entry) => entry.name !== name);
  const heard = !holder || answers(tabOf(holder.clientId));
  const silent = [...held, ...pending].filter((entry) => !answers(tabOf(entry.clientId)));
  const state = JSON.stringify([name, held, pending, silent]);
  if (state !== shown) {
    shown = state;
    $("lock").replaceChildren(
      el(
        "dl",
        {},
        el("dt", {}, heard ? "Holds" : "Last heard as holder"),
        holder
          ? el("dd", { class: "person" }, ...person(holder))
          : el("dd", { class: "muted" }, "nobody: the lock is free"),
        el("dt", {}, "Token"),
        el("dd", { class: "token" }, holder ? String(holder.token) : "–"),
        el("dt", {}, waiters.length ? `Waiting (${waiters.length})` : "Waiting"),
        waiters.length
          ? el("dd", {}, el("ol", { class: "queue" }, ...waiters.map((waiter) => el("li", { class: "person" }, ...person(waiter)))))
          : el("dd", { class: "muted" }, "nobody"),
      ),
    );
    if (!heard) {
      const text = "That tab does not answer: it hangs, or is gone. Its record stays until another tab has seen the record stand still for a whole lease, and takes over.";
      $("lock").append(el("p", { class: "notice" }, text));
    }
    $("other-locks").replaceChildren();
    if (others.length) {
      const list = others.map((entry) => el("li", {}, nameElement(entry.name), el("div", { class: "person" }, ...person(entry, ` token ${entry.token}`))));
      $("other-locks").append(el("h3", {}, "Other locks held"), el("ul", { class: "others" }, ...list));
    }
  }
  tick();
}

/** Times go on. */
function tick() {
  const now = Date.now();
  for (const element of document.querySelectorAll(".ticking")) setText(element, elapsed(now - Number(element.dataset.since)));
  const rest = until && ` of ${elapsed(until - since)}`;
  setText($("elapsed"), phase === "idle" ? "" : elapsed(now - since) + (rest ?? ""));
}

// ---- wiring ----------------------------------------------------------------------------------

/** Does `action` unless the control says that it does nothing now. */
const enabled = (id, action) => () => $(id).getAttribute("aria-disabled") !== "true" && action();
const submits = (form, id, action) => {
  $(form).onsubmit = (event) => {
    event.preventDefault();
    enabled(id, action)();
  };
};

submits("acquire-form", "acquire", acquire);
submits("hold-form", "hold", hold);
submits("hang-form", "hang", hang);
$("freeze").onclick = freeze;
$("try").onclick = enabled("try", () => take((name, signal) => locks.tryAcquire(name, { signal })));
$("cancel").onclick = enabled("cancel", () => waiting.abort());
$("release").onclick = enabled("release", release);
// Without an opener the new tab gets a process of its own where the browser can give it one, and hangs alone.
$("open").onclick = () => window.open(location.href, "_blank", "noopener");
$("name").oninput = nameChanged;
$("name").onchange = keepName;
$("hang-seconds").oninput = hangHint;
for (const [label, name] of ODD_NAMES) {
  $("odd-names").append(el("button", { type: "button", onclick: () => chooseName(name) }, label));
}

$("me").append("This is ", badge(me, hueOf(me)));
document.documentElement.style.setProperty("--hue", hueOf(me));
$("name").value = fromHash();
hangHint();
setPhase("idle");
nameChanged();
startTimeline(lockName);
startCounter(locks);
startLate();

on("events", () => {
  drawLog(lockName());
  refresh();
});
const seen = (action) => () => document.visibilityState === "visible" && action();
const look = seen(() => {
  hello();
  refresh();
});
setInterval(seen(refresh), POLL_MS);
setInterval(seen(tick), 100);
setInterval(seen(hello), HELLO_MS);
document.addEventListener("visibilitychange", () => {
  announce({ lock: lockName(), kind: document.hidden ? "hidden" : "shown" });
  look();
});
look();
