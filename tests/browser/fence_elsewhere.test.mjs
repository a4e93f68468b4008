// Data that is not in IndexedDB: the patterns of the README, with stale writers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { root } from "../../scripts/lib.mjs";
import { launch, testThat } from "./engine.mjs";

let browser;
/** A server's row, and how it is updated: `… WHERE token <= ?`. */
let row = { text: "", token: 0 };
const update = (text, token) => (row.token <= token ? ((row = { text, token }), true) : false);

before(async () => {
  browser = await launch({
    answer(request, response) {
      const url = new URL(request.url, "http://localhost");
      if (url.pathname !== "/tests/browser/note") return false;
      const updated = update(url.searchParams.get("text"), Number(url.searchParams.get("token")));
      response.writeHead(updated ? 204 : 409).end();
      return true;
    },
  });
});
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
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const examples = [...readme.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
  const code = examples.find((code) => code.includes("saveDraft")).replace(/^import .*$|^await withLease[^]*$/gm, "");
  const [stale, current] = await successors();
  const saves = (tab, text) =>
    tab.evaluate(
      async ([code, text]) => {
        const Async = (async () => {}).constructor;
        const { draft, saveDraft } = await new Async(`${code}; return { draft, saveDraft };`)();
        if (text) await saveDraft(lease, text);
        return draft();
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

test("a server: what a stale tab sends is refused", async () => {
  const [stale, current] = await successors();
  const send = (tab, text) =>
    tab.evaluate(async (text) => (await fetch(`note?${new URLSearchParams({ text, token: lease.token })}`)).status, text);
  assert.equal(await send(stale, "first"), 204);
  assert.equal(await send(current, "second"), 204);
  assert.equal(await send(stale, "stale"), 409);
  assert.equal(row.text, "second");
  await Promise.all([stale.close(), current.close()]);
});
