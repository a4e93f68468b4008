// Uses the lock at random for as long as its context lives, and tells of every step: what it asked for and
// got, when it went on in the belief that it held, and for how long it did not run at all.
import { createLocks } from "../../../js/index.js";
import { answer } from "../contexts/answer.js";
import { goOn, NAMES, ready, read, Refused, still, write } from "./ledger.js";
import { begin, client, tell } from "./log.js";
import { random } from "./random.js";

/** How long one that only tries may take, in ms: as long as the store may (`storeTimeoutMs`). */
const TRY_MS = 10_000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let locks;
let requests = 0;
let stopped = false;
const loops = [];
/** What this context has last seen of each counter. */
const known = new Map();

/** Asks for the lock in one of the ways there are. `apart`: only in the way that shares with nobody. */
function ask(dice, name, request, apart) {
  const scope = apart || dice.chance(20) ? "request" : "tab";
  const way = dice.pick({ wait: 6, try: 2, cancel: 2 });
  const ms = way === "try" ? TRY_MS : dice.from(50, dice.chance(50) ? 5_000 : 500);
  tell("ask", { name, request, way, scope, ms });
  if (way === "try") return locks.tryAcquire(name, { scope });
  if (way === "wait") return locks.acquire(name, { scope, timeout: ms });
  const controller = new AbortController();
  setTimeout(() => controller.abort(new DOMException("cancelled", "AbortError")), ms);
  return locks.acquire(name, { scope, signal: controller.signal });
}

/** A read and a write in two transactions: a write in between is overwritten. */
async function section(dice, lease, request, first) {
  const { name, token } = lease;
  /** Whether to go on; just before each thing that the lock protects. */
  const mayGoOn = () => {
    const held = !lease.signal.aborted;
    tell(held ? "step" : "told", { name, request, token });
    return held;
  };
  let db = await ready();
  if (!mayGoOn()) return false;
  const value = await read(db, name, token);
  if (first && !lease.dirty && known.has(name) && known.get(name) !== value) {
    tell("stale", { name, request, token, known: known.get(name), value });
  }
  known.set(name, value);
  await pause(dice.from(0, 30));
  db = await ready();
  if (!mayGoOn()) return false;
  known.delete(name);
  await write(db, name, token, value + 1, { client: client(), request });
  known.set(name, value + 1);
  tell("wrote", { name, request, token, value: value + 1 });
  return true;
}

async function use(dice, apart) {
  const name = dice.pick(Object.fromEntries(NAMES.map((name) => [name, 1])));
  const request = ++requests;
  let lease;
  try {
    lease = await ask(dice, name, request, apart);
  } catch (error) {
    // A DOMException has a number for a code.
    const code = typeof error?.code === "string" ? error.code : error?.name;
    return tell("failed", { name, request, error: error?.name, code, message: error?.message });
  }
  if (lease === null) return tell("busy", { name, request });
  const { token, dirty } = lease;
  tell("got", { name, request, token, dirty });
  lease.signal.addEventListener("abort", () =>
    tell("lost", { name, request, token, code: lease.signal.reason.code }),
  );
  try {
    const sections = dice.from(1, 3);
    for (let n = 0; n < sections && (await section(dice, lease, request, n === 0)); n++);
    // Longer than a lease.
    if (dice.chance(2)) await pause(dice.from(600, 1_500));
  } catch (error) {
    tell(error instanceof Refused ? "refused" : "dropped", { name, request, token, message: error.message });
  }
  tell("release", { name, request, token });
  await lease.release();
  tell("released", { name, request, token });
}

async function loop(dice, apart) {
  while (!stopped) {
    await pause(dice.from(20, 400));
    await use(dice, apart);
  }
}

export const contender = {
  /** Begins, if it has not. `place`: where this context is; `locked`: false to show what the lock is for. */
  async start({ seed, place, locked }) {
    if (loops.length === 0) {
      begin(place);
      locks = locked ? createLocks({ holder: place }) : unlocked;
      const dice = random(`${seed} ${place}`);
      loops.push(loop(dice, false));
      if (dice.chance(30)) loops.push(loop(random(`${seed} ${place} apart`), true));
    }
    // That keeps it alive for so long.
    if ("ServiceWorkerGlobalScope" in globalThis) await pause(4_000);
  },

  /** Ends the loops; resolves when they have ended. */
  async stop() {
    stopped = true;
    await Promise.all(loops);
    tell("stopped");
  },

  still,
  goOn,

  /** Ends a shared worker, which nobody else can. */
  end: () => close(),
};

/** What takes the place of the lock to show that the torture finds out. */
const unlocked = {
  acquire: async (name) => ({
    name,
    token: 1,
    dirty: true,
    signal: new AbortController().signal,
    release: async () => {},
  }),
  tryAcquire: (name) => unlocked.acquire(name),
};

answer(contender);
