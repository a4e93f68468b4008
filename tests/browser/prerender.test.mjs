// Real prerendering, which only Chromium has: a page that nobody has opened yet runs, and asks for a lock.
//
// Nobody drives these pages, they tell the server what they see: a browser whose tabs are looked at by
// DevTools prerenders nothing.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { serve } from "../../scripts/serve.mjs";
import { FLAGS } from "./chromium.mjs";
import { start, temporaryFolder } from "./processes.mjs";
import { until } from "./until.mjs";

const SAY = `const say = (what) =>
    fetch("/say?" + encodeURIComponent(what + (document.prerendering ? ", prerendered" : "")));`;

/** The page that is shown. */
const HOME = `<!doctype html><meta charset="utf-8" /><link rel="icon" href="data:," />
<script type="speculationrules">
  { "prerender": [{ "source": "list", "urls": ["/prerendered"], "eagerness": "immediate" }] }
</script>
<script type="module">
  import { query, withLease } from "/js/index.js";
  ${SAY}
  while ((await (await fetch("/told")).text()) !== "take it");
  const end = await withLease("wanted", { timeout: 4_000 }, () => "got it").catch((error) => error.code);
  say("home: " + end);
  say("waiting: " + (await query()).pending.length);
  while ((await (await fetch("/told")).text()) !== "go on");
  location.href = "/prerendered";
</script>`;

const PRERENDERED = `<!doctype html><meta charset="utf-8" />
<script type="module">
  import { acquire, tryAcquire } from "/js/index.js";
  ${SAY}
  acquire("wanted").then(
    (lease) => ((globalThis.lease = lease), say("acquired")),
    (error) => say(error.code),
  );
  tryAcquire("wanted").then((lease) => say("tried: " + lease));
</script>`;

const said = [];
let told = "wait";
let server, program, profile;

before(async () => {
  server = await serve({
    answer(request, response) {
      const { pathname, search } = new URL(request.url, "http://localhost");
      const pages = { "/home": HOME, "/prerendered": PRERENDERED, "/told": told, "/say": "" };
      if (!(pathname in pages)) return false;
      if (pathname === "/say") said.push(decodeURIComponent(search.slice(1)));
      response.setHeader("content-type", "text/html");
      response.end(pages[pathname]);
      return true;
    },
  });
  profile = temporaryFolder("chromium");
  // Prerendering counts as background networking.
  const flags = FLAGS.filter(
    (flag) => flag !== "--disable-background-networking" && !flag.startsWith("--remote"),
  );
  program = start("chromium", [...flags, `--user-data-dir=${profile.path}`, `${server.origin}/home`]);
});
after(async () => {
  await program?.stop();
  await server?.close();
  profile?.remove();
});

test("a prerendered page leaves the lock to the one that is shown, and takes it once opened", async () => {
  const hears = (what) => until(`a page says "${what}"`, () => said.includes(what), 30_000).catch((error) => {
    throw new Error(`${error.message}, but: ${said.join("; ")}`);
  });
  await hears("tried: null, prerendered");
  told = "take it";
  await hears("home: got it");
  await hears("waiting: 0");
  told = "go on";
  await hears("acquired");
  assert.ok(!said.includes("acquired, prerendered"));
});
