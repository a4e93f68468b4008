// Documents tell the truth about names: mutations, tests, files, commands.
import assert from "node:assert/strict";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { explored, plan, table } from "../../scripts/model.mjs";
import { tree } from "./tree.mjs";

const files = tree();
const texts = (pattern) => [...files].filter(([path]) => pattern.test(path)).map(([, text]) => text);
const tests = texts(/^tests\/.*\.rs$/).join("\n");

/** The rows of the tables of traps: a mutation, and its tests. */
const traps = (document) =>
  [...document.matchAll(/^\|.*\| `(\w+)` \| (.*) \|$/gm)].map(([, mutation, cell]) => ({
    mutation,
    tests: [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name),
  }));

/** The variants of the model's mutations. */
const mutationsOf = (source) => {
  const [, body] = source.match(/pub enum Mutation \{([\s\S]*?)\n\}/);
  return [...body.matchAll(/^ {4}(\w+),/gm)].map(([, name]) => name);
};

/** What is wrong with the traps of a document. */
function wrongTraps(document, mutations, tests) {
  const rows = traps(document);
  const named = rows.map(({ mutation }) => mutation);
  const isTest = (name) => new RegExp(`\\bfn ${name}\\b|^ *${name}: \\w+ breaks`, "m").test(tests);
  const catches = (mutation, name) =>
    new RegExp(`^ *${name}: ${mutation} breaks`, "m").test(tests) ||
    new RegExp(`fn ${name}\\(\\) \\{[^}]*Mutation::${mutation}\\b`).test(tests);
  return [
    ...mutations.filter((name) => !named.includes(name)).map((name) => `${name} has no row`),
    ...named.filter((name) => !mutations.includes(name)).map((name) => `there is no mutation ${name}`),
    ...rows
      .filter(({ mutation, tests }) => !catches(mutation, tests[0]))
      .map(({ mutation, tests }) => `${tests[0]} does not catch ${mutation}`),
    ...rows.flatMap(({ tests }) =>
      tests.filter((name) => !isTest(name)).map((name) => `there is no test ${name}`),
    ),
  ];
}

test("each trap in docs/PROTOCOL.md has its mutation and its test, and each mutation has its trap", () => {
  const mutations = mutationsOf(files.get("tests/model/mutation.rs"));
  assert.ok(mutations.length > 80, `${mutations.length} mutations`);
  assert.deepEqual(wrongTraps(files.get("docs/PROTOCOL.md"), mutations, tests), []);
  const rows = "| it | two holders | `A` | `a_breaks`, `a_rule` |\n| it | none | `B` | `b_breaks` |\n";
  const code = "    a_breaks: A breaks G1 in two(4);\n    b_breaks: A breaks G1 in two(4);\n";
  assert.deepEqual(wrongTraps(rows, ["A", "C"], code), [
    "C has no row",
    "there is no mutation B",
    "b_breaks does not catch B",
    "there is no test a_rule",
  ]);
});

/** The heads of a document, as links name them. */
const heads = (document) =>
  [...document.matchAll(/^#+ (.*)$/gm)].map(([, head]) =>
    head
      .toLowerCase()
      .replace(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );

/** Links of documents to files, or to heads, that there are not. */
function deadLinks(files) {
  return [...files]
    .filter(([path]) => path.endsWith(".md"))
    .flatMap(([path, text]) =>
      [...text.matchAll(/\]\(([^)\s]+)\)/g)]
        .map(([, link]) => link)
        .filter((link) => !/^[a-z]+:/.test(link))
        .filter((link) => {
          const [file, head] = link.split("#");
          const to = file ? normalize(join(dirname(path), file)) : path;
          return !files.has(to) || (head && !heads(files.get(to)).includes(head));
        })
        .map((link) => `${path}: ${link}`),
    );
}

test("links between documents lead somewhere", () => {
  assert.deepEqual(deadLinks(files), []);
  const made = new Map([
    [
      "README.md",
      "# A b?\n[one](docs/A.md) [two](docs/B.md) [three](docs/A.md#c-d) [four](#a-b) ![x](x.svg)",
    ],
    ["docs/A.md", "# Not c\n[up](../README.md#a-b) [out](https://example.org/)"],
  ]);
  assert.deepEqual(deadLinks(made), ["README.md: docs/B.md", "README.md: docs/A.md#c-d", "README.md: x.svg"]);
});

test("npm commands in documents are there", () => {
  const { scripts } = JSON.parse(files.get("package.json"));
  const named = texts(/\.md$/).flatMap((text) =>
    [...text.matchAll(/npm run (\w+)/g)].map(([, name]) => name),
  );
  assert.deepEqual(
    [...new Set(named)].filter((name) => !(name in scripts)),
    [],
  );
  assert.ok(named.length > 5);
});

test("the table of worlds is made of what the model prints", () => {
  const printed =
    "small: 1200 states, 0.5 s (1200 states so far)\ntest small ... ok\nbig: 2000000 states, 61.0 s (…)\n";
  const worlds = explored(printed);
  assert.deepEqual(
    worlds.map(({ world, states }) => [world, states]),
    [
      ["small", 1200],
      ["big", 2_000_000],
    ],
  );
  assert.equal(
    table(worlds, "2026-01-02", "abc"),
    "2026-01-02, at abc: 2,001,200 states in 2 worlds, 62 s.\n\n" +
      "| world | states | s |\n| --- | ---: | ---: |\n| big | 2,000,000 | 61.0 |\n| small | 1,200 | 0.5 |",
  );
  assert.deepEqual(plan(["large", "a", "b"]), {
    filters: ["large_worlds_if_asked_for"],
    extraEnv: { TAB_LEASE_MODEL: "large", TAB_LEASE_WORLDS: "a,b" },
  });
  assert.deepEqual(plan(["a"]), { filters: ["a"], extraEnv: {} });
});
