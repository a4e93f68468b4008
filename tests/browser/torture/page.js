// A tab of the torture: its window contends, and so do the contexts that it is told to have. What it is
// told stands in its address, so that it is the same again after a reload.
import { open } from "../contexts/open.js";
import { contender } from "./contender.js";

const CONTENDER = "/tests/browser/torture/contender.js";
const { place, with: kinds, ...settings } = JSON.parse(decodeURIComponent(location.search.slice(1)));

const contexts = {};
let started = 0;

async function start(kind) {
  // A shared worker that has been ended must not be met again.
  contexts[kind] = await open(kind, kind === "shared" ? `${CONTENDER}?${++started}` : CONTENDER);
  await contexts[kind].call("start", { ...settings, place: `${place} ${kind}` });
}

const torture = {
  /** Ends a context and starts another in its place. */
  async replace(kind) {
    const { call, end } = contexts[kind] ?? {};
    if (end) end();
    else if (call) call("end");
    await start(kind);
  },

  /** Before the page is frozen: its worker does not hear of it. */
  still: () => contexts.dedicated?.call("still"),

  /** Ends all use; resolves when it has ended. */
  stop: () => Promise.all([contender.stop(), ...Object.values(contexts).map(({ call }) => call("stop"))]),
};

const goOn = () => void contexts.dedicated?.call("goOn");
document.addEventListener("resume", goOn);
addEventListener("pageshow", goOn);

Object.assign(window, { torture, ready: true });
contender.start({ ...settings, place: `${place} window` });
for (const kind of kinds) await start(kind);
