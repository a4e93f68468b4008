// Where the wasm comes from, in real tabs: what a page gives, what fails, and what is tried again.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { root } from "../../scripts/lib.mjs";
import { launch } from "./engine.mjs";

let browser;
const tabs = [];
/** Paths that were asked for, beside the package's own .wasm. */
let asked = [];
/** The package's own .wasm is not to be had. */
let missing = false;

const ANSWERS = {
  "/none.wasm": (response) => response.writeHead(404).end(),
  "/page.wasm": (response) => response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>"),
  "/never.wasm": () => {},
  // The right bytes, under a name and a type that hide it.
  "/bytes.bin": (response) => response.end(readFileSync(join(root, "pkg/tab_lease_bg.wasm"))),
};

before(async () => {
  browser = await launch({
    answer: (request, response) => {
      const { pathname } = new URL(request.url, "http://localhost");
      if (pathname === "/pkg/tab_lease_bg.wasm" && missing && !request.headers["x-anyway"]) {
        response.writeHead(404).end();
        return true;
      }
      if (!(pathname in ANSWERS)) return false;
      asked.push(pathname);
      ANSWERS[pathname](response);
      return true;
    },
  });
});
after(() => browser?.close());
afterEach(async () => {
  asked = [];
  missing = false;
  await Promise.all(tabs.splice(0).map((tab) => tab.close()));
});

async function open() {
  const tab = await browser.open();
  tabs.push(tab);
  return tab;
}

/** Evaluates with the bytes of the wasm at hand, where the package's own URL answers 404. */
async function without(body, arg) {
  missing = true;
  const tab = await open();
  await tab.evaluate(async () => {
    const response = await fetch("/pkg/tab_lease_bg.wasm", { headers: { "x-anyway": "1" } });
    window.wasm = await response.arrayBuffer();
    window.holds = async (locks = tabLease) => {
      const { value, error } = await outcome(locks.withLease("a", () => "held"));
      return value ?? `${error.code}: ${error.cause}`;
    };
  });
  return tab.evaluate(body, arg);
}

for (const [what, source] of Object.entries({
  "a relative URL": () => "../../bytes.bin",
  "a URL": () => new URL("/bytes.bin", location.href),
  "a Response": () => new Response(wasm, { headers: { "content-type": "application/wasm" } }),
  "a Response of no type": () => new Response(wasm),
  "a promise of a Response": async () => new Response(wasm),
  "an ArrayBuffer": () => wasm,
  "a view of bytes": () => new Uint8Array(wasm),
  "a compiled module": () => new WebAssembly.Module(wasm),
  "a promise of a module": () => WebAssembly.compile(wasm),
})) {
  test(`setWasm and createLocks take ${what}`, async () => {
    const seen = await without(async (source) => {
      const before = await holds();
      return { before, own: await holds(tabLease.createLocks({ wasm: (0, eval)(source)() })) };
    }, `(${source})`);
    assert.match(seen.before, /^STORE_LOAD_FAILED: .*404/);
    assert.equal(seen.own, "held");
    const set = await without((source) => {
      tabLease.setWasm((0, eval)(source)());
      return holds();
    }, `(${source})`);
    assert.equal(set, "held");
  });
}

test("what is no source is refused at once, and nothing is fetched", async () => {
  const tab = await open();
  const codes = await tab.evaluate(() => {
    const told = (call) => {
      try {
        return call() ?? "taken";
      } catch (error) {
        return `${error.name} ${error.code}`;
      }
    };
    return [7, "", null, {}, [], true, () => "/a.wasm", new Date()].flatMap((wasm) => [
      told(() => tabLease.setWasm(wasm)),
      told(() => tabLease.createLocks({ wasm })),
    ]);
  });
  assert.deepEqual([...new Set(codes)], ["TypeError BAD_ARGUMENT"]);
});

test("a source that fails says why, is not replaced by another, and is tried again", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async () => {
    const unhandled = [];
    addEventListener("unhandledrejection", ({ reason }) => unhandled.push(reason.message));
    const ends = async (wasm) => {
      const locks = tabLease.createLocks({ wasm });
      // By now a rejection that nobody looks at would have been reported: this one is.
      Promise.reject(new Error("unhandled"));
      await new Promise((resolve) => addEventListener("unhandledrejection", resolve, { once: true }));
      return [await outcome(locks.tryAcquire("a")), await outcome(locks.tryAcquire("a"))].map(
        ({ error }) => `${error?.code}: ${error?.cause}`,
      );
    };
    const seen = {
      none: await ends("/none.wasm"),
      page: await ends(new URL("/page.wasm", location.href)),
      bytes: await ends(new Uint8Array(8)),
      broken: await ends(Promise.reject(new Error("offline"))),
      nothing: await ends(Promise.resolve(null)),
      read: await ends(new Response("no wasm")),
    };
    return { ...seen, unhandled };
  });
  const both = (pattern) => (ends) => ends.forEach((end) => assert.match(end, pattern));
  both(/^STORE_LOAD_FAILED: Error: .*none\.wasm.* 404/)(seen.none);
  both(/^STORE_LOAD_FAILED: CompileError/)(seen.page);
  both(/^STORE_LOAD_FAILED: CompileError/)(seen.bytes);
  both(/^STORE_LOAD_FAILED: Error: offline/)(seen.broken);
  both(/^STORE_LOAD_FAILED: TypeError: wasm must be/)(seen.nothing);
  assert.match(seen.read[0], /^STORE_LOAD_FAILED: CompileError/);
  assert.match(
    seen.read[1],
    /^STORE_LOAD_FAILED: TypeError: the Response that was given has been read already/,
  );
  assert.deepEqual([...new Set(seen.unhandled)], ["unhandled"]);
  assert.deepEqual(asked, ["/none.wasm", "/none.wasm", "/page.wasm", "/page.wasm"]);
});

test("the last source counts, a lock's own before the page's; once loaded, others are ignored", async () => {
  const tab = await open();
  const seen = await tab.evaluate(async () => {
    const { createLocks, setWasm } = tabLease;
    const code = ({ value, error }) => error?.code ?? typeof value;
    setWasm("/pkg/tab_lease_bg.wasm");
    setWasm("/none.wasm");
    const set = code(await outcome(tabLease.acquire("a")));
    const own = code(await outcome(createLocks({ wasm: "/pkg/tab_lease_bg.wasm" }).acquire("b")));
    const loaded = code(await outcome(tabLease.acquire("c")));
    setWasm("/page.wasm");
    const late = code(await outcome(createLocks({ wasm: "/page.wasm" }).acquire("d")));
    return { set, own, loaded, late };
  });
  assert.deepEqual(seen, { set: "STORE_LOAD_FAILED", own: "object", loaded: "object", late: "object" });
  assert.deepEqual(asked, ["/none.wasm"]);
});

test("a source that never answers keeps no other from loading; its callers get what arrives", async () => {
  const tab = await open();
  const ends = await tab.evaluate(async () => {
    tabLease.setWasm("/never.wasm");
    const stuck = tabLease.withLease("a", () => "stuck");
    const other = await tabLease
      .createLocks({ wasm: "/pkg/tab_lease_bg.wasm" })
      .withLease("b", () => "other");
    return [await stuck, other];
  });
  assert.deepEqual(ends, ["stuck", "other"]);
});

test("many first calls with many sources: their leases are of one wasm", { timeout: 60_000 }, async () => {
  const tab = await open();
  const seen = await tab.evaluate(async () => {
    const bytes = await (await fetch("/pkg/tab_lease_bg.wasm")).arrayBuffer();
    const given = [bytes, new Uint8Array(bytes), await WebAssembly.compile(bytes), undefined, undefined];
    const leases = await Promise.all(
      given.map((wasm, n) => tabLease.createLocks({ wasm, database: "one" }).acquire(`one ${n}`)),
    );
    const { held } = await tabLease.createLocks({ database: "one" }).query();
    await Promise.all(leases.map((lease) => lease.release()));
    return held
      .map(({ name, token }) => [name, token])
      .sort()
      .map(([, token], n) => token === leases[n].token);
  });
  assert.deepEqual(seen, [true, true, true, true, true]);
});
