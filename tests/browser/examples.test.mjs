// The README's examples, run as they stand there by several tabs at once: what they protect is not lost.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, testThat } from "./engine.mjs";
import { answerExamples, example } from "./examples.mjs";

const TABS = 3;

const visits = example("js", "However many tabs");
const modules = {
  visits,
  unlocked: visits
    .replace(
      /^import .*$/m,
      "const { signal } = new AbortController(), withLease = (_, run) => run({ signal });",
    )
    .replace('open("visits"', 'open("unlocked"'),
  calls: example("js", "tryAcquire"),
  notes: `${example("js", '"notes app"')}\nexport const db = request.result;`,
  wrapped: example("js", "new Dexie("),
  draft: `${example("js", "saveDraft")}\nexport { loadDraft, saveDraft };`,
};

let browser;
let tabs = [];
before(async () => (browser = await launch({ answer: answerExamples(modules) })));
after(() => browser?.close());
afterEach(async () => {
  for (const tab of tabs.splice(0)) await tab.close();
});

async function open() {
  tabs = await Promise.all(Array.from({ length: TABS }, () => browser.open("/example.html")));
}

/** Lets the tabs do the same at once, and tells what each answers. */
const together = (work, arg) => Promise.all(tabs.map((tab) => tab.evaluate(work, arg)));

/** Runs an example that often in each tab, and tells what it said on the console. */
async function runs(name, times) {
  const run = async ([name, times]) => {
    const lines = [];
    console.log = (line) => lines.push(String(line));
    for (let time = 0; time < times; time++) await import(`/example/${name}.js?${time}`);
    return lines;
  };
  return (await together(run, [name, times])).flat();
}

test("the first example: three tabs count one by one, and no visit is lost", async () => {
  await open();
  const lines = await runs("visits", 60);
  const visits = lines.map((line) => Number(line.replace(/^visit /, ""))).sort((a, b) => a - b);
  assert.deepEqual(visits, Array.from({ length: TABS * 60 }, (_, n) => n + 1));
});

test("the first example without the lock loses visits", async () => {
  await open();
  const lines = await runs("unlocked", 20);
  assert.equal(lines.length, TABS * 20);
  assert.ok(new Set(lines).size < TABS * 20, "the test before could not fail");
});

test("the calls: each tab has its turn", async () => {
  await open();
  assert.equal((await runs("calls", 5)).length, TABS * 5);
});

test("fenced transactions: each one is committed", async () => {
  await open();
  assert.deepEqual(await runs("notes", 20), Array.from({ length: TABS * 20 }, () => "saved"));
});

test("fenced transactions: what is read in one and written in the next is not lost", async () => {
  await open();
  await together(async (times) => {
    const { createLocks } = await import("tab-lease");
    const { db } = await import("/example/notes.js");
    const read = (tx) =>
      new Promise((resolve) => {
        tx.objectStore("notes").get("sum").onsuccess = ({ target }) => resolve(target.result ?? 0);
      });
    const locks = createLocks({ database: db });
    for (let time = 0; time < times; time++) {
      window.sum = await locks.withLease("notes", async (lease) => {
        const sum = await lease.transaction("notes", "readonly", read);
        await lease.transaction("notes", "readwrite", (tx) => tx.objectStore("notes").put(sum + 1, "sum"));
        return sum + 1;
      });
    }
  }, 40);
  assert.equal(Math.max(...(await together(() => sum))), TABS * 40);
});

test("fences of idb and Dexie: every row is there", async () => {
  await open();
  await runs("wrapped", 20);
  const rows = await tabs[0].evaluate(async () => {
    const { default: Dexie } = await import("dexie");
    return (await new Dexie("dexie app").open()).table("notes").count();
  });
  assert.equal(rows, TABS * 20);
});

testThat("drafts in files: no edit of three tabs is lost, whatever a stale tab writes", "files", async () => {
  await open();
  const [stale] = tabs;
  await stale.evaluate(async () => {
    const { saveDraft } = await import("/example/draft.js");
    // A tab whose lease was lost long ago, and that does not look at its signal.
    (async () => {
      for (window.late = 0; !window.enough; late++) {
        await saveDraft({ token: 1 }, { edits: -1e6 }).catch(() => {});
      }
    })();
  });
  await runs("draft", 20);
  await stale.waitForFunction(() => late > 10);
  const edits = await stale.evaluate(async () => {
    window.enough = true;
    const { loadDraft } = await import("/example/draft.js");
    const { withLease } = await import("tab-lease");
    return withLease("draft", async () => (await loadDraft()).edits);
  });
  assert.equal(edits, 1 + TABS * 20);
});

testThat("drafts in files: a tab that was killed in one leaves the one before", "files", async () => {
  await open();
  const before = await tabs[0].evaluate(async () => {
    const { loadDraft } = await import("/example/draft.js");
    const before = await loadDraft();
    const folder = await navigator.storage.getDirectory();
    // What is there when it has begun, and not closed.
    const file = await folder.getFileHandle("draft-9007199254740991", { create: true });
    const writable = await file.createWritable();
    await writable.write("half of it");
    window.unfinished = writable;
    return [before, await loadDraft()];
  });
  assert.ok(before[0].edits > 0);
  assert.deepEqual(before[1], before[0]);
});
