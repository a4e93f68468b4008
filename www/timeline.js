// The timeline: one lane a tab, bars for the stretches in which it held or waited, and the log.
import { $, badge, el, setText } from "./dom.js";
import { answers, events, hueOf, me, roster } from "./tabs.js";

const FRAME_MS = 50;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const narrow = matchMedia("(max-width: 640px)");

/** What the events of one lock say about time: `{ key, tab, kind, from, to, token }`, `kind` as in the style sheet. */
function stretches(lock, now) {
  const found = [];
  const held = [];
  const waiting = new Map();
  const add = (tab, kind, from, to, token) => {
    const stretch = { key: `${kind}/${tab}/${from}`, tab, kind, from, to, token };
    found.push(stretch);
    return stretch;
  };
  const endWait = (tab, to) => {
    if (waiting.has(tab)) add(tab, "waited", waiting.get(tab), to);
    waiting.delete(tab);
  };
  // A tab that does not answer is drawn as far as it was heard of.
  const heard = (tab) => (answers(tab) ? now : (roster.get(tab)?.heard ?? now));

  for (const { tab, kind, at, token, seconds, ...event } of events) {
    // What a page went through says nothing about a wait.
    if (["hidden", "shown", "frozen", "resumed"].includes(kind)) continue;
    if (kind === "hangs") add(tab, "silent", at, Math.min(at + seconds * 1000, now));
    if (event.lock !== lock) continue;
    if (kind === "waits") waiting.set(tab, at);
    else if (kind !== "hangs") endWait(tab, at);
    if (kind === "acquired") held.push(add(tab, "held", at, undefined, token));
    if (kind === "lost") add(tab, "lost", at, at, token);
    if (kind === "released" || kind === "lost") {
      const ended = held.find((stretch) => stretch.tab === tab && stretch.token === token && !stretch.to);
      if (ended) ended.to = at;
    }
  }
  for (const tab of [...waiting.keys()]) endWait(tab, heard(tab));
  for (const stretch of held) {
    // A tab that hung or died held until the next token was given out, whatever it believed.
    const next = held.find((other) => other.from >= stretch.from && other.token > stretch.token);
    const to = Math.min(stretch.to ?? now, next?.from ?? now);
    if (!stretch.to && heard(stretch.tab) < to) add(stretch.tab, "silent", Math.max(heard(stretch.tab), stretch.from), to);
    stretch.to = to;
  }
  return found;
}

/** Tokens are long; their ends tell those of a minute apart. */
const shortToken = (token) => (String(token).length > 5 ? `…${String(token).slice(-4)}` : String(token));

const lanes = new Map();

function lane(tab) {
  let made = lanes.get(tab);
  if (!made) {
    const track = el("div", { class: "track", "aria-hidden": "true" });
    const note = el("span", { class: "note" });
    const row = el("div", { class: "lane" }, el("div", { class: "who" }, badge(tab, hueOf(tab)), note), track);
    row.style.setProperty("--hue", hueOf(tab));
    lanes.set(tab, (made = { row, track, note, bars: new Map() }));
  }
  return made;
}

/** What a tab is doing now, in a word. */
function noteOf(tab, now, found) {
  if (roster.get(tab)?.gone) return "closed";
  if (!answers(tab)) return "no answer";
  const open = found.find((stretch) => stretch.tab === tab && stretch.to === now && stretch.kind !== "silent");
  if (open) return open.kind === "held" ? "holds" : "waits";
  return tab === me ? "this tab" : "";
}

function draw(lock) {
  const now = Date.now();
  const span = (narrow.matches ? 30 : 60) * 1000;
  const found = stretches(lock, now);
  const recent = found.filter((stretch) => stretch.to > now - span);
  const shown = [...roster.keys()]
    .filter((tab) => answers(tab) || recent.some((stretch) => stretch.tab === tab))
    .sort((a, b) => roster.get(a).born - roster.get(b).born);

  for (const [tab, { row }] of lanes) {
    if (shown.includes(tab)) continue;
    row.remove();
    lanes.delete(tab);
  }
  const percent = (ms) => `${(100 * ms) / span}%`;
  shown.forEach((tab, index) => {
    const { row, track, note, bars } = lane(tab);
    if ($("timeline").children[index] !== row) $("timeline").insertBefore(row, $("timeline").children[index]);
    row.classList.toggle("mine", tab === me);
    setText(note, noteOf(tab, now, found));
    const mine = recent.filter((stretch) => stretch.tab === tab);
    for (const { key, kind, from, to, token } of mine) {
      let bar = bars.get(key);
      if (!bar) {
        bar = el("div", { class: `stretch ${kind}` }, kind === "lost" ? "✕" : "");
        if (kind === "held") bar.append(el("span", {}, shortToken(token)));
        bars.set(key, bar);
        track.append(bar);
      }
      const left = Math.max(from, now - span);
      bar.style.left = percent(left - (now - span));
      bar.style.width = kind === "lost" ? "" : percent(to - left);
    }
    for (const [key, bar] of bars) {
      if (mine.some((stretch) => stretch.key === key)) continue;
      bar.remove();
      bars.delete(key);
    }
  });
  drawAxis(span / 1000);
}

let axis;

function drawAxis(seconds) {
  if (axis?.dataset.seconds === String(seconds) && axis.parentNode.lastChild === axis) return;
  axis?.remove();
  const ticks = el("div", { class: "ticks" });
  for (let ago = seconds; ago >= 0; ago -= 10) {
    const tick = el("span", {}, ago === 0 ? "now" : `−${ago} s`);
    tick.style.left = `${100 - (100 * ago) / seconds}%`;
    ticks.append(tick);
  }
  axis = el("div", { class: "axis", "aria-hidden": "true", "data-seconds": seconds }, ticks);
  $("timeline").append(axis);
  $("timeline").style.setProperty("--parts", seconds / 10);
}

/** Keeps drawing, while the page is seen, the lock that `current()` names. */
export function startTimeline(current) {
  let drawn = 0;
  const frame = (time) => {
    requestAnimationFrame(frame);
    if (time - drawn < (still.matches ? 1000 : FRAME_MS)) return;
    drawn = time;
    draw(current());
  };
  requestAnimationFrame(frame);
}

const WORDS = {
  waits: () => "waits",
  acquired: ({ token, dirty }) => `acquired, token ${token}${dirty ? ", dirty" : ""}`,
  released: ({ token }) => `released, token ${token}`,
  lost: ({ token, code }) => `LOST its lease of token ${token}: ${code}`,
  "timed out": ({ code }) => `timed out: ${code}`,
  cancelled: () => "cancelled its wait",
  refused: () => "tried: held by another tab",
  failed: ({ code }) => `failed: ${code}`,
  hangs: ({ seconds }) => `hangs for ${seconds} s`,
  hidden: () => "is hidden: asks for a lease of 10 s, and keeps the lock",
  shown: () => "is shown again: the usual lease will do",
  frozen: () => "is frozen: has let go before it stops",
  resumed: () => "goes on after a freeze: asks anew if it waits",
};

const time = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 1,
  hourCycle: "h23",
});

/** Writes the log of one lock. */
export function drawLog(lock) {
  const lines = events.filter((event) => event.lock === lock || event.kind === "hangs").reverse();
  $("log").replaceChildren(
    ...lines.map((event) =>
      el(
        "li",
        { class: event.kind === "lost" || event.kind === "failed" ? "bad" : "" },
        el("time", { dateTime: new Date(event.at).toISOString() }, time.format(event.at)),
        badge(event.tab, hueOf(event.tab)),
        el("span", {}, WORDS[event.kind]?.(event) ?? String(event.kind)),
      ),
    ),
  );
  if (!lines.length) $("log").append(el("li", { class: "muted" }, "Nothing yet with this lock. Acquire it."));
}
