// The house is tidy: short functions and lines, imports that go down, nothing that nobody needs, and a
// list of files that is true. Each check is also shown a tree in which it must find something.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  circles,
  fileList,
  imports,
  longFunctions,
  longLines,
  tree,
  unlisted,
  unreachable,
  upward,
} from "./tree.mjs";

const files = tree();
const list = fileList(files.get("docs/ARCHITECTURE.md"));
const order = list.filter((path) => path.startsWith("src/"));

/** The tree that is made of these files, in a room of its own. */
const made = (files) => new Map(Object.entries(files));

const assertNothing = (found) => assert.deepEqual(found, []);

test("no line has more than 110 columns", () => {
  assertNothing(longLines(files));
  const long = "x".repeat(111);
  assert.deepEqual(longLines(made({ "src/a.rs": `${long}\n`, "js/b.js": `a\n${long}`, "www/c.js": long })), [
    "src/a.rs:1 has 111 columns",
    "js/b.js:2 has 111 columns",
  ]);
  assert.deepEqual(longLines(made({ "src/a.rs": "·".repeat(110) })), []);
});

test("no function of Rust has more than 70 lines", () => {
  assertNothing(longFunctions(files));
  const lines = (n) => "    x();\n".repeat(n - 2);
  const code = (n) => `fn f() {\n${lines(n)}}\ntrait T {\n    fn declared(&self);\n}\n`;
  assert.deepEqual(longFunctions(made({ "src/a.rs": code(70) })), []);
  assert.deepEqual(longFunctions(made({ "src/a.rs": code(71) })), ["src/a.rs: fn f has 71 lines"]);
  // Braces that are none: in strings of all kinds, characters, comments; and lifetimes are no characters.
  const strings = `"}", r#"}"#, '}', '\\'', b"}", "\\"}"`;
  const odd = `fn f<'a>(x: &'a str) {\n    g(${strings}); // }\n/* } /* } */ } */\n`;
  assert.deepEqual(longFunctions(made({ "src/a.rs": `${odd}${lines(70)}}\n` })), [
    "src/a.rs: fn f has 72 lines",
  ]);
});

test("imports go down", () => {
  assertNothing(upward(files, order));
  const two = {
    "src/lib.rs": "pub use top::{Thing, Other};",
    "src/top.rs": "use crate::{bottom::{A, B}, Thing};\n#[cfg(doc)]\nuse crate::nothing::X;",
    "src/top/part.rs": "use super::Thing; use super::super::bottom;",
    "src/bottom.rs": "//! See [top](crate::top).\nfn f() {}",
  };
  const twoInOrder = ["src/top.rs", "src/top/part.rs", "src/bottom.rs"];
  assert.deepEqual(upward(made(two), twoInOrder), []);
  assert.deepEqual(imports(made(two)).get("src/top/part.rs"), new Set(["src/top.rs", "src/bottom.rs"]));
  const up = "src/bottom.rs uses src/top.rs, which is above it";
  for (const code of [
    "use crate::top::Thing;",
    "use crate::Other;",
    "fn f() { crate::top::g() }",
    "use super::top;",
  ]) {
    assert.deepEqual(upward(made({ ...two, "src/bottom.rs": code }), twoInOrder), [up], code);
  }
});

test("no rooms need each other", () => {
  assertNothing(circles(files));
  // Through a part, which no single import shows.
  const circle = {
    "src/lib.rs": "",
    "src/a.rs": "mod part;",
    "src/a/part.rs": "use super::X; use crate::b::Y;",
    "src/b.rs": "use crate::c::Z;",
    "src/c.rs": "use crate::a::X;",
  };
  assert.deepEqual(circles(made({ ...circle, "src/c.rs": "" })), []);
  assert.ok(circles(made(circle)).includes("src/a.rs and src/b.rs need each other"));
});

test("every file is there for something", () => {
  assertNothing(unreachable(files));
  const some = {
    "package.json": '{ "scripts": { "start": "node scripts/start.mjs" } }',
    "scripts/start.mjs": 'import "./lib.mjs"; serve("/www/index.html"); import(`./${kind}_kind.mjs`);',
    "scripts/lib.mjs": 'run("unit.mjs");',
    "scripts/odd_kind.mjs": "",
    "scripts/some/unit.mjs": "",
    "www/index.html": '<script src="./demo.js"></script>',
    "www/demo.js": "",
    "src/lib.rs": 'mod rules;\n// mod comment;\n#[path = "else/where.rs"]\nmod other;',
    "src/rules.rs": "mod part;",
    "src/rules/part.rs": "",
    "src/else/where.rs": "",
    "tests/rules.rs": "mod support;",
    "tests/support/mod.rs": "",
  };
  assert.deepEqual(unreachable(made(some)), []);
  // Being named in a document is no use.
  some["README.md"] = "See docs/A.md, and scripts/old.mjs.";
  some["docs/A.md"] = "";
  const lost = { "src/comment.rs": "", "scripts/old.mjs": "", "tests/support/more.rs": "" };
  assert.deepEqual(
    unreachable(made({ ...some, ...lost })),
    Object.keys(lost).map((path) => `nothing leads to ${path}`),
  );
});

test("the list of files in docs/ARCHITECTURE.md is the tree", () => {
  assert.ok(list.length > 50, "the list is there");
  assertNothing(unlisted(files, list));
  const some = made({ "README.md": "", "src/a.rs": "", "www/b.js": "", "www/c.js": "" });
  assert.deepEqual(unlisted(some, ["src/a.rs", "www/"]), []);
  assert.deepEqual(unlisted(some, ["www/b.js", "www/b.js", "js/"]), [
    "src/a.rs is not in the list",
    "www/c.js is not in the list",
    "there is no js/",
    "www/b.js is in the list twice",
  ]);
  assert.deepEqual(fileList("# A\n\n```text\nsrc/a.rs   one\n           more\nwww/       two\n```\n"), [
    "src/a.rs",
    "www/",
  ]);
});
