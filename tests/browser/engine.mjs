// The engine that the tests run in, by the environment variable TAB_LEASE_ENGINE: chromium (else),
// firefox or webkit. They differ in how they are driven, and in what can be done to a tab from
// outside; a page is a page.
import { test } from "node:test";

export { until } from "./until.mjs";

const name = process.env.TAB_LEASE_ENGINE ?? "chromium";

const { can, launch } = await import(`./${name}.mjs`);

/** A browser of its own, with a server for its pages. Close it when done. */
export { launch, name as engine };

/** What not every engine can, and some test needs. */
const ABILITIES = {
  crash: "kill the process of a tab",
  crashAmong: "kill the process of one tab after the other",
  freeze: "freeze a hidden tab",
  hide: "hide a tab",
  cache: "be asked to keep a page for the way back",
  stopServiceWorkers: "stop a service worker",
  files: "keep files of a site",
  collect: "collect the garbage of a tab",
  clearSiteData: "clear what a site has stored, under a running page",
  blockSiteData: "be told to let no site store anything",
};

/**
 * A test that may need an ability. Where the engine lacks the ability, the test does not count as skipped,
 * because nothing was left out that could have been done. It is listed at the end.
 */
export function testThat(title, ability, run) {
  if (!ability || can[ability]) test(title, run);
  else console.log(`${name} cannot ${ABILITIES[ability]}: ${title}`);
}
