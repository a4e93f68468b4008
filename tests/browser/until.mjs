// How tests wait: for a condition, never for a time.
import { setTimeout as pause } from "node:timers/promises";

/** Waits until `look` answers with something truthy, and answers with that. */
export async function until(what, look, ms = 15_000) {
  const end = Date.now() + ms;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await pause(10);
  }
}
