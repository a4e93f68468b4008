// A page with contenders in all kinds of contexts. The page itself is one, too.
import * as tabLease from "../../../js/index.js";
import { counter } from "../counter.js";
import { contender } from "./contender.js";
import { open } from "./open.js";

const contexts = { window: { call: (call, ...args) => contender[call](...args) } };

/** Starts a contender. */
async function start(kind) {
  contexts[kind] = await open(kind, "/tests/browser/contexts/contender.js");
}

Object.assign(window, { tabLease, counter, contexts, start, ready: true });
