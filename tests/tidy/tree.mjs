// What is in the tree, and what the tidy checks find wrong with it. Each check takes a tree, path → text, and
// gives a list of what is wrong, each in words; so that a test can give it a tree of its own.
import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { root } from "../../scripts/lib.mjs";
import { functionsOf, modulesOf, pathsOf } from "./rust.mjs";

export const LINES = 70;
export const COLUMNS = 110;

/** What git knows of, or would add: path → text. */
export function tree() {
  const listed = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 2 ** 26,
  });
  const paths = listed
    .split("\n")
    .filter((path) => path && statSync(join(root, path), { throwIfNoEntry: false }));
  return new Map(paths.map((path) => [path, readFileSync(join(root, path), "utf8")]));
}

const CODE = /^(src|js|scripts|tests)\/.*\.(rs|[cm]?js|[cm]?ts)$/;
const RUST = /^(src|tests)\/.*\.rs$/;
const select = (files, pattern) => [...files].filter(([path]) => pattern.test(path));

/** Lines that are too long. */
export function longLines(files) {
  return select(files, CODE).flatMap(([path, text]) =>
    text.split("\n").flatMap((line, n) => {
      const columns = [...line].length;
      return columns > COLUMNS ? [`${path}:${n + 1} has ${columns} columns`] : [];
    }),
  );
}

/** Rust's functions that are too long. (Those of JavaScript are the linter's.) */
export function longFunctions(files) {
  return select(files, RUST).flatMap(([path, text]) =>
    functionsOf(text)
      .filter(({ lines }) => lines > LINES)
      .map(({ name, lines }) => `${path}: fn ${name} has ${lines} lines`),
  );
}

// ---- Rooms -----------------------------------------------------------------------------------

/** `src/store/memory.rs` → ["store", "memory"]. */
const moduleOf = (path) =>
  path
    .replace(/^src\//, "")
    .replace(/(\/mod)?\.rs$/, "")
    .split("/");

const isWithin = (inner, outer) => outer.every((part, n) => inner[n] === part);

/** What `lib.rs` passes on under a name of its own, with the module that it is from. */
function passedOn(lib) {
  const names = new Map();
  for (const [, tree] of lib.matchAll(/\bpub use ([^;]+);/g)) {
    const [, from, list] = tree.match(/^([\w:]+)::(?:\{([\s\S]*)\}|\w+)$/) ?? [];
    const given = list?.split(",") ?? [tree.split("::").at(-1)];
    for (const name of given) names.set(name.trim(), from.split("::"));
  }
  return names;
}

/** Which files of `src` name which others, in their code: path → set of paths. */
export function imports(files) {
  const sources = select(files, /^src\/(?!lib\.rs$).*\.rs$/);
  const places = new Map(sources.map(([path]) => [moduleOf(path).join("::"), path]));
  const names = passedOn(files.get("src/lib.rs") ?? "");
  const resolve = (segments) => {
    const full = names.has(segments[0]) ? names.get(segments[0]) : segments;
    for (let length = full.length; length > 0; length--) {
      const found = places.get(full.slice(0, length).join("::"));
      if (found) return found;
    }
  };
  return new Map(
    sources.map(([path, text]) => {
      const here = moduleOf(path);
      const found = pathsOf(text).map(([first, ...rest]) => {
        if (first === "crate") return resolve(rest);
        let base = first === "super" ? here.slice(0, -1) : here;
        while (rest[0] === "super") [rest, base] = [rest.slice(1), base.slice(0, -1)];
        return resolve([...base, ...rest]);
      });
      return [path, new Set(found.filter((other) => other && other !== path))];
    }),
  );
}

/**
 * Imports that go up, where `order` lists the files of `src` from top to bottom. A room and its parts, as
 * `store.rs` and `store/memory.rs`, know each other.
 */
export function upward(files, order) {
  const place = new Map(order.map((path, n) => [path, n]));
  const related = (a, b) => isWithin(moduleOf(a), moduleOf(b)) || isWithin(moduleOf(b), moduleOf(a));
  return [...imports(files)].flatMap(([path, others]) =>
    [...others]
      .filter((other) => !related(path, other) && !(place.get(path) < place.get(other)))
      .map((other) => `${path} uses ${other}, which is above it`),
  );
}

/** Circles of imports that leave a room. */
export function circles(files) {
  const graph = imports(files);
  for (const [path] of graph) {
    // A room declares its parts, and so depends on them.
    const parts = [...graph.keys()].filter(
      (other) => moduleOf(other).slice(0, -1).join() === moduleOf(path).join(),
    );
    for (const part of parts) graph.get(path).add(part);
  }
  const reach = (from) => {
    const seen = new Set();
    const next = [...graph.get(from)];
    while (next.length > 0) {
      const path = next.pop();
      if (seen.has(path)) continue;
      seen.add(path);
      next.push(...graph.get(path));
    }
    return seen;
  };
  const reaches = new Map([...graph.keys()].map((path) => [path, reach(path)]));
  const together = (a, b) => reaches.get(a).has(b) && reaches.get(b).has(a);
  const room = (path) => moduleOf(path)[0];
  return [...graph.keys()].flatMap((path, n) =>
    [...graph.keys()]
      .slice(n + 1)
      .filter((other) => together(path, other) && room(path) !== room(other))
      .map((other) => `${path} and ${other} need each other`),
  );
}

// ---- Everything has a use, and a line in the list --------------------------------------------

/** What is used without being named by another file. */
const ROOTS = [
  /^[^/]*$/, // the repository's own files: Cargo.toml, README.md, …
  /^\.ci\/run$/,
  /^src\/lib\.rs$/,
  /^tests\/[^/]*\.rs$/,
  /\.test\.m?js$/,
  /\/package(-lock)?\.json$/,
  /^tests\/rules\.proptest-regressions$/,
];

/** The modules of a Rust file, as files. */
function rustModules(path, text) {
  const folder = dirname(path);
  const isRoot = /(^|\/)(lib|mod)\.rs$|^tests\/[^/]+\.rs$/.test(path);
  const base = isRoot ? folder : path.replace(/\.rs$/, "");
  return modulesOf(text).flatMap(({ name, path }) =>
    path ? [join(folder, path)] : [join(base, `${name}.rs`), join(base, name, "mod.rs")],
  );
}

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** A name of a file in a text. What is put in at run time (`./${engine}.mjs`) may be anything. */
const NAME = /(?:[\w@./-]|\$\{\w+\})*(?:\w|\$\{\w+\})\.(?:[cm]?js|[cm]?ts|html|css|svg|json|md)\b/g;
const PUT_IN = /\\\$\\\{\w+\\\}/g;

/**
 * The files that a file may mean: paths in it, from the root, from its folder, or of anything below its
 * folder that has that name. A document that names a program does not use it.
 */
function named(path, text, paths) {
  const folder = dirname(path);
  return [...new Set(text.match(NAME))].flatMap((name) => {
    const ways = [name, join(folder, name)].map((way) => escaped(normalize(way).replace(/^\//, "")));
    const bare = name.replace(/^\//, "");
    if (!bare.includes("/")) ways.push(`${escaped(folder)}/(?:.*/)?${escaped(bare)}`);
    const pattern = new RegExp(`^(?:${ways.join("|").replace(PUT_IN, ".+")})$`);
    const uses = path.endsWith(".md") ? /\.(md|svg)$/ : /./;
    return paths.filter((path) => pattern.test(path) && uses.test(path));
  });
}

/** Files that nothing leads to. */
export function unreachable(files) {
  const paths = [...files.keys()];
  const seen = new Set();
  const next = paths.filter((path) => ROOTS.some((pattern) => pattern.test(path)));
  while (next.length > 0) {
    const path = next.pop();
    if (seen.has(path)) continue;
    seen.add(path);
    const text = files.get(path);
    const found = path.endsWith(".rs") ? rustModules(path, text) : named(path, text, paths);
    next.push(...found.filter((path) => files.has(path)));
  }
  return paths.filter((path) => !seen.has(path)).map((path) => `nothing leads to ${path}`);
}

/** The list of files in a document: the block of text that begins with `src/`. Paths, from top to bottom. */
export function fileList(document) {
  const [, block] = document.match(/^```text\n(src\/[\s\S]*?)^```/m) ?? [];
  const lines = block?.split("\n").filter((line) => /^\S/.test(line)) ?? [];
  return lines.map((line) => line.split(/\s/)[0]);
}

/** Where the list and the tree differ. A folder in it (`www/`) stands for all that is in the folder. */
export function unlisted(files, list) {
  const listed = /^(src|js|scripts|tests|docs|www|bench|\.ci)\//;
  const covers = (entry, path) => (entry.endsWith("/") ? path.startsWith(entry) : path === entry);
  const paths = [...files.keys()];
  return [
    ...paths
      .filter((path) => listed.test(path) && !list.some((entry) => covers(entry, path)))
      .map((path) => `${path} is not in the list`),
    ...list
      .filter((entry) => !paths.some((path) => covers(entry, path)))
      .map((entry) => `there is no ${entry}`),
    ...list.filter((entry, n) => list.indexOf(entry) !== n).map((entry) => `${entry} is in the list twice`),
  ];
}
