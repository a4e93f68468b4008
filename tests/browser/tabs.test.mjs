// What the other tests rest on, whatever the engine: tabs that nobody hides, and evaluations that do
// not wait for each other.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, testThat } from "./engine.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

test("evaluations are under way at the same time, in one tab and in two", async () => {
  const [one, two] = [await browser.open(), await browser.open()];
  const begun = () => new Promise((resolve) => (window.end = resolve));
  const pending = [one, two].map((tab) => tab.evaluate(begun));
  await Promise.all([one, two].map((tab) => tab.waitForFunction(() => window.end)));
  await two.evaluate(() => end("two"));
  assert.equal(await pending[1], "two");
  await one.evaluate(() => end("one"));
  assert.equal(await pending[0], "one");
  await assert.rejects(one.evaluate(() => Promise.reject(new Error("as it should be"))), /as it should be/);
  await Promise.all([one.close(), two.close()]);
});

testThat("tabs are shown, until they are hidden", "hide", async () => {
  const tabs = [await browser.open(), await browser.open()];
  const hidden = () => Promise.all(tabs.map((tab) => tab.evaluate(() => document.hidden)));
  assert.deepEqual(await hidden(), [false, false]);
  await browser.hide(tabs[0]);
  assert.deepEqual(await hidden(), [true, false]);
  await browser.show(tabs[0]);
  assert.deepEqual(await hidden(), [false, false]);
  await Promise.all(tabs.map((tab) => tab.close()));
});
