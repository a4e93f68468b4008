// What a context tells of itself, by a channel to the recorder, at once: it may be killed any moment.

export const LOG = "torture log";

/** How often a context looks whether it runs, in ms; a pause longer than twice that is told. */
const TICK = 50;
/** How often it tells that it is alive, in ms. */
const ALIVE = 1_000;

/** The clock that all contexts have in common, in ms. */
export const now = () => performance.timeOrigin + performance.now();

let name;
let channel;
const unsent = [];

/** The name of this context: the same place may have another one later. */
export const client = () => name;

/** Tells the recorder. */
export function tell(what, more) {
  const entry = { at: now(), client: name, what, ...more };
  if (channel) channel.postMessage(entry);
  else unsent.push(entry);
}

/** Begins to tell: of errors, too, and of each time in which this context did not run. */
export function begin(place) {
  name = `${place} ${crypto.randomUUID().slice(0, 4)}`;
  channel = new BroadcastChannel(LOG);
  // A page with an open channel is not kept in the back/forward cache.
  addEventListener("pagehide", () => {
    channel?.close();
    channel = undefined;
  });
  addEventListener("pageshow", ({ persisted }) => {
    channel ??= new BroadcastChannel(LOG);
    for (const entry of unsent.splice(0)) channel.postMessage(entry);
    if (persisted) tell("restored");
  });
  addEventListener("error", ({ message }) => tell("error", { message }));
  addEventListener("unhandledrejection", ({ reason }) =>
    tell("error", { message: `unhandled: ${reason?.stack ?? reason}` }),
  );
  tell("start");
  let last = now();
  let told = last;
  setInterval(() => {
    const tick = now();
    const hidden = globalThis.document?.hidden ?? false;
    if (tick - last > 2 * TICK) tell("gap", { from: last, to: tick, hidden });
    else if (tick - told > ALIVE) tell("alive");
    else return void (last = tick);
    last = told = tick;
  }, TICK);
}
