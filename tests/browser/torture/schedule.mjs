// What is done to the tabs, and when: decided by the seed alone, before anything has happened.
import { random } from "./random.js";

/** Tabs that are disturbed: slots 1 to 4. Slot 0 is a tab that is left alone. */
export const SLOTS = 4;

/** In each state: how long a tab stays in it, in ms, and what may come then, by weight. */
const STATES = {
  gone: { stay: [100, 1_500], next: { open: 1 } },
  open: {
    stay: [500, 3_000],
    next: { hang: 3, hide: 4, navigate: 3, reload: 2, kill: 1, close: 1, worker: 1, iframe: 1 },
  },
  hidden: { stay: [300, 4_000], next: { show: 3, freeze: 3, hang: 1, reload: 1, kill: 1, close: 1 } },
  frozen: { stay: [300, 4_000], next: { resume: 4, kill: 1, close: 1 } },
  away: { stay: [300, 3_000], next: { back: 4, close: 1 } },
};

/** The state that an action leads to; the others leave it as it is. */
const LEADS = {
  ...{ open: "open", kill: "gone", close: "gone", hide: "hidden", show: "open" },
  ...{ freeze: "frozen", resume: "hidden", navigate: "away", back: "open" },
};

/** What happens to the workers that no tab has for itself: they are ended, and start again by themselves. */
const ENDS = { service: [3_000, 8_000], shared: [4_000, 10_000] };

/** What a tab of that slot has besides its window. */
const equipment = (dice) => ["iframe", "dedicated"].filter(() => dice.chance(60));

function* slot(seed, slot, ms) {
  const dice = random(`${seed} slot ${slot}`);
  let state = "gone";
  for (let at = dice.from(0, 300); ; ) {
    const action = dice.pick(STATES[state].next);
    const event = { at, slot, action };
    if (action === "open") event.with = equipment(dice);
    if (action === "hang") event.ms = dice.from(700, 4_000);
    if (at >= ms) return;
    yield event;
    state = LEADS[action] ?? state;
    at += dice.from(...STATES[state].stay);
    // One that hangs can be killed; most live to see the end of it.
    if (action !== "hang") continue;
    if (dice.chance(75)) at = event.at + event.ms + dice.from(...STATES[state].stay);
    else if (at < event.at + event.ms && at < ms) {
      yield { at, slot, action: dice.pick({ kill: 1, close: 1 }) };
      state = "gone";
      at += dice.from(...STATES.gone.stay);
    }
  }
}

function* ends(seed, kind, ms) {
  const dice = random(`${seed} ${kind}`);
  for (let at = 0; (at += dice.from(...ENDS[kind])) < ms; ) yield { at, action: kind };
}

/** The events of a run of `ms`, in order: `{ at, slot, action, … }`, `at` in ms from its start. */
export function schedule(seed, ms) {
  const slots = Array.from({ length: SLOTS }, (_, n) => [...slot(seed, n + 1, ms)]);
  const others = Object.keys(ENDS).map((kind) => [...ends(seed, kind, ms)]);
  return [...slots, ...others].flat().sort((a, b) => a.at - b.at);
}
