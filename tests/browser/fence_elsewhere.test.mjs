// Data that is not in IndexedDB: the README's pattern for files, with stale writers. (For servers: devices.test.mjs.)
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, testThat } from "./engine.mjs";
import { example } from "./examples.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

/** Two tabs, of which one has had the lease after the other; each with its lease as `lease`. */
async function successors() {
  const tabs = [await browser.open("/tests/browser/fence_page.html"), await browser.open("/tests/browser/fence_page.html")];
  for (const tab of tabs) await tab.evaluate(async () => await (window.lease = await tabLease.acquire("draft")).release());
  const tokens = await Promise.all(tabs.map((tab) => tab.evaluate(() => lease.token)));
  assert.ok(tokens[0] < tokens[1]);
  return tabs;
}

testThat("files: what a stale tab writes is read by nobody", "files", async () => {
  const code = example("js", "saveDraft").replace(/^import .*$|^await withLease[^]*$/gm, "");
  const [stale, current] = await successors();
  const saves = (tab, text) =>
    tab.evaluate(
      async ([code, text]) => {
        const Async = (async () => {}).constructor;
        const { loadDraft, saveDraft } = await new Async(`${code}; return { loadDraft, saveDraft };`)();
        if (text) await saveDraft(lease, text);
        return loadDraft();
      },
      [code, text],
    );
  assert.equal(await saves(stale, "first"), "first");
  assert.equal(await saves(current, "second"), "second");
  assert.equal(await saves(stale, "stale"), "second");
  assert.equal(await saves(current), "second");
  assert.equal(await saves(current, "third"), "third");
  await Promise.all([stale.close(), current.close()]);
});
