// What the tabs of this page tell each other, over a BroadcastChannel: who is there, and what
// happened. The lock needs none of this; the demo does, to show in each tab what all tabs do.

const KEPT = 200; // events in memory
const ANSWER_MS = 1500; // a tab that takes longer to say "here" hangs, is frozen, or is gone

// One hue a letter. I and O are left out: they read as digits.
const LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ";

/** The colour of a tab, derived from its name, so that all tabs agree on it. */
export function hueOf(tab) {
  const letter = LETTERS.indexOf(/^Tab ([A-Z])\d$/.exec(tab)?.[1]);
  return ((letter < 0 ? tab.length : letter) * 360) / LETTERS.length;
}

const channel = new BroadcastChannel("tab-lease-demo");
const born = Date.now();
const random = () => Math.random();

/** This tab's name; empty until {@link join} has chosen it. */
export let me = "";
/** Tab name → `{ born, heard, asked, gone }`: wall clock of its start, its latest message, and our oldest unanswered hello. */
export const roster = new Map();
/** What happened, oldest first: `{ id, tab, lock, kind, at, … }`. */
export const events = [];

const known = new Set();
const listeners = new Map();
let count = 0;

/** Calls `listener(message)` for messages of `type` from other tabs; `"events"`: whenever events were added. */
export const on = (type, listener) => listeners.set(type, listener);

export function send(type, content) {
  channel.postMessage({ type, from: me, born, ...content });
}

/** Whether a tab runs, as far as is known here. One that hangs or crashed does not answer. */
export function answers(tab) {
  const entry = roster.get(tab);
  return tab === me || (entry !== undefined && !entry.gone && !(Date.now() - entry.asked > ANSWER_MS));
}

/** Asks who is there. A hidden tab answers too: messages are not throttled, only timers are. */
export function hello() {
  for (const entry of roster.values()) entry.asked ??= Date.now();
  send("hello");
}

/** Tells all tabs, this one included, what happened here. */
export function announce(event) {
  const whole = { id: `${me}/${born}/${count++}`, tab: me, at: Date.now(), ...event };
  keep([whole]);
  send("events", { events: [whole] });
}

function keep(added) {
  let fresh = false;
  for (const event of added) {
    if (known.has(event.id)) continue;
    known.add(event.id);
    events.push(event);
    fresh = true;
  }
  if (!fresh) return;
  events.sort((a, b) => a.at - b.at);
  // Their ids stay known: another tab may still tell of them.
  events.splice(0, Math.max(events.length - KEPT, 0));
  listeners.get("events")?.();
}

channel.onmessage = ({ data: message }) => {
  if (message.from) roster.set(message.from, { born: message.born, heard: Date.now(), gone: message.type === "bye" });
  // A tab without a name yet cannot be told apart, so it only listens.
  if (message.type === "hello" && me) send("here");
  if (message.type === "history?" && me) send("events", { events });
  if (message.type === "events") keep(message.events);
  else listeners.get(message.type)?.(message);
};
// A message that cannot be read (from an older page in another tab) is nothing to act on.
channel.onmessageerror = () => {};

/** Joins the other tabs: hears who is there, then picks a name, the farthest in colour from theirs. */
export async function join() {
  send("hello");
  send("history?");
  await new Promise((resolve) => setTimeout(resolve, 150));
  const taken = [...roster].filter(([, entry]) => !entry.gone).map(([tab]) => hueOf(tab));
  const apart = (hue) => Math.min(180, ...taken.map((other) => 180 - Math.abs(180 - Math.abs(hue - other))));
  const names = [...LETTERS].map((letter) => `Tab ${letter}${1 + Math.floor(random() * 9)}`);
  const ranked = names.map((name) => ({ name, rank: apart(hueOf(name)) + random() })).sort((a, b) => b.rank - a.rank);
  me = ranked[0].name;
  roster.set(me, { born, heard: Date.now() });
  send("here");
  // Closing tells the others, but releases nothing: that a lease ends without its holder's help is what is shown here.
  addEventListener("pagehide", () => send("bye"));
  addEventListener("pageshow", (event) => event.persisted && send("here"));
}
