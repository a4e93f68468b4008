// A static file server on 127.0.0.1, for the demo and for the browser tests.
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { root } from "./lib.mjs";

const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/** What is served, and nothing else of the repository. */
const FOLDERS = ["www", "js", "dist", "pkg", "tests/browser", "node_modules/idb", "node_modules/dexie"];

/**
 * Serves on `port` (0: any free one). `answer(request, response)` may return true to say that it has
 * answered a request itself. Resolves with `{ origin, close }`.
 */
export function serve({
  port = 0,
  folders = FOLDERS,
  base = root,
  home = "/www/",
  answer = () => false,
} = {}) {
  const server = createServer(async (request, response) => {
    const end = (status, headers = {}) => response.writeHead(status, headers).end();
    try {
      if (answer(request, response)) return;
      let path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
      if (path === "/") return end(302, { location: home });
      if (path.endsWith("/")) path += "index.html";
      const file = normalize(join(base, path));
      if (!folders.some((folder) => file.startsWith(join(base, folder) + "/"))) return end(404);
      if (!(await stat(file)).isFile()) return end(404);
      response.writeHead(200, {
        "content-type": TYPES[extname(file)] ?? "application/octet-stream",
        // What was built a moment ago is what the page runs. (With "no-store" it would not be kept in the
        // back/forward cache.)
        "cache-control": "no-cache",
      });
      createReadStream(file).pipe(response);
    } catch {
      end(404);
    }
  });
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(port, "127.0.0.1", () => {
      resolve({
        origin: `http://127.0.0.1:${server.address().port}`,
        close: () => new Promise((done) => server.close(done) && server.closeAllConnections()),
      });
    });
  });
}
