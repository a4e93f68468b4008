// What the tidy checks read of Rust, without a parser: text without comments and strings, functions, imports.

/** What is no code: comments (those in blocks may nest), strings of every kind, characters. */
const NO_CODE = [
  /\/\/[^\n]*/y,
  /\b[bc]?r(#*)"[\s\S]*?"\1/y,
  /\b[bc]?"(?:\\[\s\S]|[^"\\])*"/y,
  /"(?:\\[\s\S]|[^"\\])*"/y,
  // A lifetime has no second quote.
  /'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'/y,
];

function endOfBlockComment(text, start) {
  const marks = /\/\*|\*\//g;
  marks.lastIndex = start;
  let depth = 0;
  for (let mark; (mark = marks.exec(text));) {
    depth += mark[0] === "/*" ? 1 : -1;
    if (depth === 0) return marks.lastIndex;
  }
  return text.length;
}

/** The same text with blanks in place of comments and strings: every line stays where it is. */
export function codeOf(text) {
  const blank = (part) => part.replace(/[^\n]/g, " ");
  let code = "";
  for (let at = 0; at < text.length;) {
    let end = text.startsWith("/*", at) ? endOfBlockComment(text, at) : at;
    for (const pattern of end === at ? NO_CODE : []) {
      pattern.lastIndex = at;
      if (pattern.test(text)) {
        end = pattern.lastIndex;
        break;
      }
    }
    code += end > at ? blank(text.slice(at, end)) : text[at];
    at = Math.max(end, at + 1);
  }
  return code;
}

const lineOf = (code, at) => code.slice(0, at).split("\n").length;

/** All functions that have a body: `{ name, line, lines }`. */
export function functionsOf(text) {
  const code = codeOf(text);
  const functions = [];
  for (const head of code.matchAll(/\bfn\s+(\$?\w+)/g)) {
    const open = head.index + code.slice(head.index).search(/[{;]/);
    // A declaration in a trait.
    if (code[open] !== "{") continue;
    let depth = 0;
    let end = open;
    do {
      if (code[end] === "{") depth++;
      if (code[end] === "}") depth--;
      end++;
    } while (depth > 0 && end < code.length);
    const line = lineOf(code, head.index);
    functions.push({ name: head[1], line, lines: lineOf(code, end) - line + 1 });
  }
  return functions;
}

/** The names that a `use` tree brings, as lists of segments: `a::{b, c::d}` is a::b and a::c::d. */
function leaves(tree) {
  const at = tree.indexOf("{");
  if (at < 0)
    return [
      tree
        .replace(/\s+as\s+\w+/, "")
        .trim()
        .split("::"),
    ];
  const before = tree.slice(0, at).trim().split("::").filter(Boolean);
  const parts = [];
  let depth = 0;
  let part = "";
  for (const char of tree.slice(at + 1, tree.lastIndexOf("}"))) {
    if (char === "{") depth++;
    if (char === "}") depth--;
    if (char === "," && depth === 0) {
      parts.push(part);
      part = "";
    } else part += char;
  }
  return [...parts, part]
    .filter((part) => part.trim())
    .flatMap((part) => leaves(part.trim()).map((leaf) => [...before, ...leaf]));
}

/** The paths into this crate that a file names, as lists of segments. What only docs use is left out. */
export function pathsOf(text) {
  const code = codeOf(text).replace(/#\[cfg\(doc\)\]\s*use\b[^;]*;/g, "");
  const paths = [];
  const rest = code.replace(/\buse\s+([^;]+);/g, (_, tree) => {
    paths.push(...leaves(tree));
    return "";
  });
  for (const [path] of rest.matchAll(/\b(?:crate|super|self)(?:::\w+)+/g)) paths.push(path.split("::"));
  return paths.filter(([first]) => ["crate", "super", "self"].includes(first));
}

/** The modules that a file declares, with the file of those that have a `path` of their own. */
export function modulesOf(text) {
  const bodies = codeOf(text);
  return [...bodies.matchAll(/\bmod\s+(\w+)\s*;/g)].map(({ 1: name, index }) => {
    const before = text.slice(0, index).trimEnd().split("\n").at(-1);
    return { name, path: before.match(/#\[path = "([^"]+)"\]/)?.[1] };
  });
}
