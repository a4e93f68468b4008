// What the tests evaluate in real tabs: the package as `tabLease`, and the counter.
import * as tabLease from "../../js/index.js";
import { counter } from "./counter.js";
import { ODD } from "./odd.js";

// `page.html?without=locks`: a browser without Web Locks. Importing the package has touched nothing yet.
for (const missing of new URLSearchParams(location.search).getAll("without")) {
  Object.defineProperty(navigator, missing, { value: undefined });
}

for (const name of new URLSearchParams(location.search).getAll("odd")) ODD[name]();

/** Resolves in all tabs at once, when one of them calls `start()`. */
const starts = new BroadcastChannel("start");
const started = () =>
  new Promise((resolve) => starts.addEventListener("message", () => resolve(), { once: true }));
const start = () => starts.postMessage("go");

/** How a call ended, in a form that crosses over to the test. */
const outcome = (promise) =>
  promise.then(
    (value) => ({ value }),
    (error) => ({
      error: {
        kind: error?.constructor?.name,
        name: error?.name,
        code: error?.code,
        message: error?.message,
        cause: error?.cause === undefined ? undefined : String(error.cause),
        token: error?.token,
      },
    }),
  );

/** Resolves with the reason once the signal is aborted. */
const aborted = (signal) =>
  new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener("abort", () => resolve(signal.reason), { once: true });
  });

/** How many wait for that lock. Of others some may stand in the queue whose tabs are long gone. */
const waiting = async (name) =>
  (await tabLease.query()).pending.filter((waiter) => waiter.name === name).length;

Object.assign(window, { tabLease, counter, started, start, outcome, aborted, waiting, ready: true });
