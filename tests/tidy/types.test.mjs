// The JavaScript has types, and what tsc makes of js/ fits the declarations that are written by hand. The
// compiler and the linter are also shown what they must find.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { must, root, run } from "../../scripts/lib.mjs";

const made = mkdtempSync(join(tmpdir(), "tab-lease-types-"));
after(() => rmSync(made, { recursive: true, force: true }));

/** A folder with files of the repository, and others. */
function folder(name, copies, files = {}) {
  const path = join(made, name);
  mkdirSync(path);
  for (const copy of copies) cpSync(join(root, copy), join(path, copy), { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text);
  return path;
}

const tsc = (args, cwd) => run("tsc", args, { cwd, quiet: true });
const CHECKED = ["js", "pkg", "src", "tsconfig.json"];
const change = (file, from, to) => {
  const text = readFileSync(join(root, file), "utf8");
  assert.ok(text.includes(from), `${file} has: ${from}`);
  return { [file]: text.replace(from, to) };
};

test("tsc finds what does not fit in js/, and in what lies beside the Rust", async () => {
  const mistakes = {
    "an option that there is not": change(
      "js/locks.js",
      "{ timeout, signal, scope })",
      "{ timeout, sign, scope })",
    ),
    "what Rust does not have": change("js/lease.js", "raw.release(", "raw.releases("),
    "an answer of another kind": change("js/locks.js", "locks().query();", "locks().query;"),
    "a code that there is not": change("js/lease.js", '"LEASE_COLLECTED"', '"LEASE_COLECTED"'),
    "a mode that there is not": change("src/store/indexed_db/requests.js", '"readonly"', '"readOnly"'),
  };
  for (const [what, files] of Object.entries(mistakes)) {
    const { code, text } = await tsc(["-p", "."], folder(what, CHECKED, files));
    assert.notEqual(code, 0, what);
    assert.match(text, new RegExp(`^${Object.keys(files)[0]}.*error TS`, "m"), what);
  }
});

/** Compiled: each side can stand for the other. An error's name is a literal only where it is declared. */
const COMPARED = `
import * as made from "./made/js/exports.js";
import * as told from "./js/index.js";

type Errors = "TimeoutError" | "LeaseLostError" | "StoreError";
type Class = abstract new (...args: never) => unknown;
type Instance<T, Name extends keyof T> = T[Name] extends Class ? InstanceType<T[Name]> : never;
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
const is = <_T extends true>() => {};

is<Same<keyof typeof made, keyof typeof told>>();
export const down: Omit<typeof told, Errors> = made;
export const up: Omit<typeof made, Errors> = told;
export const errorsDown = (error: { [Name in Errors]: Instance<typeof made, Name> }) => {
  const as: { [Name in Errors]: Omit<Instance<typeof told, Name>, "name"> } = error;
  return as;
};
export const errorsUp = (error: { [Name in Errors]: Instance<typeof told, Name> }) => {
  const as: { [Name in Errors]: Instance<typeof made, Name> } = error;
  return as;
};
`;

/** What tsc says of js/ beside index.d.ts, or beside what is put in its place. */
async function compare(name, declared = {}) {
  const path = folder(name, ["js", "pkg"], { "compared.ts": COMPARED, ...declared });
  const emit = "--noEmit false --emitDeclarationOnly --declaration --rootDir . --outDir".split(" ");
  await must("tsc", ["-p", ".", ...emit, join(path, "made")], { quiet: true });
  for (const file of ["index.d.ts", "internal.d.ts"])
    cpSync(join(root, "js", file), join(path, "made", "js", file));
  cpSync(join(root, "pkg"), join(path, "made", "pkg"), { recursive: true });
  const strict =
    "--noEmit --strict --target es2022 --module esnext --moduleResolution bundler --skipLibCheck";
  return tsc(
    [...strict.split(" "), "--lib", "es2022,dom,dom.iterable,esnext.disposable", "compared.ts"],
    path,
  );
}

test("what tsc makes of js/ and index.d.ts can stand for each other", async () => {
  const { code, text } = await compare("as it is");
  assert.equal(code, 0, text);
  const mistakes = {
    "an export more": change(
      "js/index.d.ts",
      "export const LEASE_STORE",
      "export const MORE: 1;\nexport const LEASE_STORE",
    ),
    "another answer": change(
      "js/index.d.ts",
      "export function query(): Promise<LockManagerSnapshot>",
      "export function query(): Promise<string>",
    ),
    "a code less": change("js/index.d.ts", '    | "LEASE_COLLECTED"\n', ""),
    "another argument": change("js/index.d.ts", "setWasm(source: WasmSource)", "setWasm(source: number)"),
  };
  for (const [what, declared] of Object.entries(mistakes)) {
    assert.notEqual((await compare(what, declared)).code, 0, what);
  }
});

test("the linter finds what is wrong in js/, scripts/ and tests/", async () => {
  const long = `export function long() {\n${"  globalThis.x();\n".repeat(69)}}\n`;
  const files = {
    "js/a.js": `${long}export const b = (c) => nowhere(c == 1);\n`,
    "scripts/a.mjs": "const unused = 1;\nexport let d = Array.from([]).map((e) => { e; });\n",
    "tests/a.test.mjs": 'if (process.argv === process.argv) throw "f";\n',
  };
  const path = join(made, "lint");
  for (const part of ["js", "scripts", "tests"]) mkdirSync(join(path, part), { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text);
  cpSync(join(root, ".oxlintrc.json"), join(path, ".oxlintrc.json"));
  const { code, text } = await run("oxlint", ["js", "scripts", "tests", "--format", "unix"], {
    cwd: path,
    quiet: true,
  });
  assert.equal(code, 1, text);
  const found = {
    "js/a.js": ["max-lines-per-function", "no-undef", "eqeqeq"],
    "scripts/a.mjs": ["no-unused-vars", "prefer-const", "array-callback-return", "no-unused-expressions"],
    "tests/a.test.mjs": ["no-self-compare", "no-throw-literal"],
  };
  for (const [file, rules] of Object.entries(found)) {
    for (const rule of rules) {
      assert.match(text, new RegExp(`${file.replace(".", "\\.")}:.*\\(${rule}\\)`), `${file}: ${rule}`);
    }
  }
});
