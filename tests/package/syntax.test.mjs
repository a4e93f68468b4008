// The oldest browsers that README.md names can parse and run what is shipped.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { transform } from "esbuild";
import { root, TARGET } from "../../scripts/lib.mjs";

const SHIPPED = ["js", "dist", "pkg"].flatMap((folder) =>
  readdirSync(join(root, folder)).filter((file) => /\.c?js$/.test(file)).map((file) => `${folder}/${file}`),
);

/** What esbuild changes for the target, beyond white space; "" if nothing. */
async function lowered(code) {
  const as = async (target) =>
    (await transform(code, { target, minifyWhitespace: true, logLevel: "silent" })).code;
  const [kept, changed] = await Promise.all([as("esnext"), as(TARGET)]);
  return kept === changed ? "" : changed;
}

/** Functions of the standard library that Safari has only since a version after 15.4. */
const LATER = new RegExp(
  [
    /AbortSignal\.(any|timeout)\b/,
    /\bPromise\.(withResolvers|try)\b/,
    /\b(Object|Map)\.groupBy\b/,
    /\bArray\.fromAsync\b/,
    /\.(toSorted|toReversed|toSpliced|isWellFormed|toWellFormed|isSubsetOf|isSupersetOf|isDisjointFrom)\(/,
    /\bnew (DecompressionStream|CompressionStream)\b/,
    /\.(toBase64|toHex|fromBase64|fromHex|transferToFixedLength)\(/,
  ].map(({ source }) => source).join("|"),
);

test("the check finds what old browsers cannot parse", async () => {
  for (const code of ["class A { static { this.a = 1; } }", "/(?<=a)b/", "/[a--b]/v", "await using a = b;"]) {
    assert.notEqual(await lowered(code), "", code);
  }
  for (const code of ["class A { #a = 1; static b = 2; #c() { return #a in this; } }", "a ??= b?.c"]) {
    assert.equal(await lowered(code), "", code);
  }
  assert.match("AbortSignal.any([a])", LATER);
});

for (const file of SHIPPED) {
  test(`${file}: nothing in it is newer than the browsers that are supported`, async () => {
    const code = readFileSync(join(root, file), "utf8");
    assert.equal(await lowered(code), "");
    assert.doesNotMatch(code, LATER);
  });
}

test("README.md names the browsers that the build is for", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const named = readme.match(/Safari ([\d.]+), Chrome and Edge (\d+), Firefox (\d+)/);
  assert.ok(named);
  const [, safari, chrome, firefox] = named;
  assert.deepEqual(TARGET, [
    `safari${safari}`,
    `ios${safari}`,
    `chrome${chrome}`,
    `edge${chrome}`,
    `firefox${firefox}`,
  ]);
});
