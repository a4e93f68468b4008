// One user, two devices: two browsers with profiles of their own, and a server that does what README.md says,
// by its own SQL. A token means nothing to the other device, and still refuses a stale tab of the same one.
import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import initSqlJs from "sql.js";
import { launch, until } from "./engine.mjs";
import { answerExamples, example, examples } from "./examples.mjs";

const [schema, write] = examples("sql");
const [raiseFence, updateNote] = write.split(/(?<=;)\n/);

const db = new (await initSqlJs()).Database();
db.run(schema);

/** Runs a statement with those of the values that it names, and tells how many rows it changed. */
function changed(sql, values) {
  const named = Object.entries(values).filter(([name]) => sql.includes(name));
  db.run(sql, Object.fromEntries(named));
  return db.getRowsModified();
}

/** Does a write as the README says, and answers with the status. */
function put(note, { text, version, epoch, token }) {
  const values = { ":note": note, ":text": text, ":version": version, ":epoch": epoch, ":token": token };
  db.run("BEGIN");
  const fresh = changed(raiseFence, values) > 0;
  const status = !fresh ? 409 : changed(updateNote, values) > 0 ? 200 : 412;
  db.run(fresh ? "COMMIT" : "ROLLBACK");
  return status;
}

const row = (note) => {
  const [text, version] = db.exec("SELECT text, version FROM notes WHERE id = ?", [note])[0].values[0];
  return { text, version };
};

/** The writes so far, in the order in which they arrived: text and status (none yet: it is on its way). */
let writes;
/** Writes of that text arrive, and are done when the test says so. */
let held;

function answerNotes(request, response) {
  const note = request.url.match(/^\/notes\/(\w+)$/)?.[1];
  if (!note) return false;
  const answer = async () => {
    if (request.method === "GET") return response.end(JSON.stringify(row(note)));
    let body = "";
    for await (const chunk of request) body += chunk;
    const entry = { ...JSON.parse(body), status: undefined };
    writes.push(entry);
    await held.get(entry.text);
    entry.status = put(note, entry);
    response.writeHead(entry.status).end();
  };
  answer().catch((error) => response.destroy(error));
  return true;
}

const answerModule = answerExamples({ notes: example("js", "editNote") });
const answer = (request, response) => answerNotes(request, response) || answerModule(request, response);

const devices = [];
let note = 0;
before(async () => {
  for (let device = 0; device < 2; device++) devices.push(await launch({ answer }));
});
after(() => Promise.all(devices.map((device) => device.close())));
beforeEach(() => {
  writes = [];
  held = new Map();
  db.run("INSERT INTO notes (id, text, version) VALUES (?, '', 1)", [String(++note)]);
});

/** A tab of that device, in which `edit(text)` adds to the note, and first waits if it is told to. */
async function open(device) {
  const tab = await devices[device].open("/example.html");
  await tab.evaluate(async (note) => {
    const { editNote } = await import("/example/notes.js");
    window.edits = 0;
    window.edit = (added, wait) =>
      editNote(note, async (text) => {
        edits++;
        await wait?.();
        return text + added;
      });
    window.outcome = (promise) => promise.then(() => "saved", (error) => `${error.name}: ${error.message}`);
  }, String(note));
  return tab;
}

const edit = (tab, added) => tab.evaluate((added) => outcome(edit(added)), added);

test("the first device writes again after the second has", async () => {
  const tabs = [await open(0), await open(1)];
  for (const [device, added] of [[0, "a"], [1, "b"], [0, "c"], [1, "d"], [0, "e"]]) {
    assert.equal(await edit(tabs[device], added), "saved");
  }
  assert.deepEqual(row(String(note)), { text: "abcde", version: 6 });
  assert.deepEqual(writes.map(({ status }) => status), [200, 200, 200, 200, 200]);
  const [a, b] = writes;
  assert.notEqual(a.epoch, b.epoch);
  assert.equal(writes[2].epoch, a.epoch);
  assert.ok(writes.every(({ epoch }) => Number.isSafeInteger(epoch)));
  // One of them is the lower one: a server that only compares tokens refuses its device.
  assert.notEqual(a.token, b.token);
  await Promise.all(tabs.map((tab) => tab.close()));
});

test("what the other device writes in between is noticed, and kept", async () => {
  const tabs = [await open(0), await open(1)];
  await tabs[0].evaluate(() => {
    const wait = () => new Promise((resolve) => (window.goOn = resolve));
    window.ended = outcome(edit("a", () => (edits === 1 ? wait() : undefined)));
  });
  await tabs[0].waitForFunction(() => window.goOn);
  assert.equal(await edit(tabs[1], "b"), "saved");
  assert.equal(await tabs[0].evaluate(() => (goOn(), ended)), "saved");
  assert.deepEqual(writes.map(({ text, status }) => [text, status]), [["b", 200], ["a", 412], ["ba", 200]]);
  await Promise.all(tabs.map((tab) => tab.close()));
});

test("a write of a stale tab that arrives late is refused by its token", async () => {
  const [stale, next] = [await open(0), await open(0)];
  let arrives;
  held.set("stale", new Promise((resolve) => (arrives = resolve)));
  await stale.evaluate(() => void (window.ended = outcome(edit("stale"))));
  await until("its write is on its way", () => writes.length === 1);
  await next.evaluate(() => void (window.ended = outcome(edit("next"))));
  await next.waitForFunction(async (note) => {
    const { query } = await import("tab-lease");
    return (await query()).pending.some(({ name }) => name === `note ${note}`);
  }, note);
  // It hangs for longer than its lease.
  await stale.evaluate(() => {
    setTimeout(() => {
      for (const end = performance.now() + 4_000; performance.now() < end; );
    });
  });
  assert.equal(await next.evaluate(() => ended), "saved");
  // Were it not for its token, it could be written: it says which version it saw.
  writes[0].version = row(String(note)).version;
  arrives();
  assert.match(await stale.evaluate(() => ended), /^(LeaseLostError|Error: the note was not saved: 409)/);
  assert.deepEqual(writes.map(({ text, status }) => [text, status]), [["stale", 409], ["next", 200]]);
  assert.equal(writes[0].epoch, writes[1].epoch);
  assert.ok(writes[0].token < writes[1].token);
  assert.deepEqual(row(String(note)), { text: "next", version: 2 });
  await Promise.all([stale.close(), next.close()]);
});

test("the SQL by itself: a token may be repeated, and a refused write leaves no trace", () => {
  const name = String(note);
  const at = (epoch, token, version) => put(name, { text: `${epoch}/${token}`, version, epoch, token });
  const large = Number.MAX_SAFE_INTEGER;
  assert.equal(at(large, 10, 1), 200);
  assert.equal(at(large, 10, 2), 200, "the same holder again");
  assert.equal(at(large, 9, 3), 409, "an older one");
  assert.equal(at(large - 1, 1, 3), 200, "of another device a lower one");
  assert.equal(at(large, 12, 3), 412, "one that has not seen that");
  assert.equal(at(large, 11, 4), 409, "whose token counts all the same");
  assert.equal(at(large, 12, 4), 200);
  assert.deepEqual(row(name), { text: `${large}/12`, version: 5 });
});
