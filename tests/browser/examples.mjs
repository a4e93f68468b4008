// The README's own text, as the tests run it: what stands there is what is tried, not a copy.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../scripts/lib.mjs";

/** The README's examples in a language ("js", "sql"), in order. */
export function examples(language) {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, "gms"))].map(([, code]) => code);
}

/** The one example that contains a text. */
export function example(language, contained) {
  const found = examples(language).filter((code) => code.includes(contained));
  if (found.length !== 1) throw new Error(`${found.length} ${language} examples contain ${contained}`);
  return found[0];
}

/** A page that finds what the examples import, as an app's bundler does for it. */
const PAGE = `<!doctype html><meta charset="utf-8" /><title>example</title><link rel="icon" href="data:," />
<script type="importmap">${JSON.stringify({
  imports: {
    "tab-lease": "/js/index.js",
    idb: "/node_modules/idb/build/index.js",
    dexie: "/node_modules/dexie/dist/modern/dexie.mjs",
  },
})}</script>
<script src="/tests/browser/agent.js"></script>
<script type="module">window.ready = true;</script>`;

/**
 * Answers for a server of tests: `/example.html` is the page, and `/example/<name>.js` the code of that name,
 * a new module for every query.
 */
export function answerExamples(modules) {
  return (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const name = pathname.match(/^\/example\/(.+)\.js$/)?.[1];
    const body = pathname === "/example.html" ? PAGE : modules[name];
    if (body === undefined) return false;
    response.writeHead(200, { "content-type": `text/${name ? "javascript" : "html"}; charset=utf-8` });
    response.end(body);
    return true;
  };
}
