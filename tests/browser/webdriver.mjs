// Browsers that speak W3C WebDriver: it opens, navigates and closes their windows. A window is a tab
// of its own that nobody hides; what is evaluated in it goes over agent.mjs.
import { createServer } from "node:net";
import { serve } from "../../scripts/serve.mjs";
import { listen } from "./agent.mjs";
import { start } from "./processes.mjs";
import { until } from "./until.mjs";

async function freePort() {
  const server = createServer();
  await new Promise((resolve, reject) => server.on("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts a driver, and by it a browser. */
export async function begin({ driver, args = [], env, capabilities }) {
  const port = await freePort();
  const program = start(driver, [`--port=${port}`, ...args], { env });
  const request = async (method, path, body) => {
    const headers = { "content-type": "application/json" };
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      headers,
      body: body && JSON.stringify(body),
    });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${driver}: ${method} ${path}: ${value.error}: ${value.message}`);
    return value;
  };
  let session;
  try {
    await until(`${driver} is ready`, () => {
      program.expect();
      return request("GET", "/status").then(({ ready }) => ready, () => false);
    });
    const { sessionId } = await request("POST", "/session", { capabilities: { alwaysMatch: capabilities } });
    session = `/session/${sessionId}`;
  } catch (error) {
    await program.stop();
    throw error;
  }
  const send = (method, path, body) => request(method, session + path, body);
  // The window that is there from the start, and stays: without a current one, none can be opened.
  const home = await send("GET", "/window");
  let last = Promise.resolve();
  return {
    /** The process group of the driver, the browser and all its processes. */
    group: program.group,

    /** Sends commands that concern one window (or none yet), while nobody else sends any. */
    inWindow(handle, work) {
      const mine = last.then(async () => {
        await send("POST", "/window", { handle: handle ?? home });
        return work(send);
      });
      last = mine.catch(() => {});
      return mine;
    },

    async end() {
      await last;
      // Its own way out; if it finds none, the other one.
      await send("DELETE", "").catch(() => {});
      await program.stop();
    },
  };
}

/**
 * A browser of its own, with a server for its pages. `begin` starts a session, and `abilities(browser)`
 * are what it can do besides. Close it when done.
 */
export async function launch({ answer, begin, abilities }) {
  const server = await serve({ answer });
  const agents = await listen();
  let session = begin();
  /** The session, or a new one with a new browser, where a tab that was killed has ended the last. */
  const living = () =>
    (session = session.then(async (session) => {
      if (!session.lost) return session;
      await session.end();
      return begin();
    }));
  const windows = new WeakMap();
  const inWindow = (tab, work) => {
    const { session, handle } = windows.get(tab);
    return session.inWindow(handle, work);
  };
  const browser = {
    origin: server.origin,
    inWindow,

    /** The process group of the driver, the browser and all its processes. */
    group: async () => (await session).group,

    /** Opens a tab on a page of this repository (or any other), and waits until `window.ready` is set. */
    async open(page = "/tests/browser/page.html") {
      const { tab, urlOf } = agents.expect();
      const session = await living();
      const handle = await session.inWindow(undefined, async (send) => {
        const { handle } = await send("POST", "/window/new", { type: "window" });
        return handle;
      });
      windows.set(tab, { session, handle });
      Object.assign(tab, {
        goto: (url) => inWindow(tab, (send) => send("POST", "/url", { url: urlOf(url) })),
        reload: () => inWindow(tab, (send) => send("POST", "/refresh", {})),
        close: async () => session.lost || (await inWindow(tab, (send) => send("DELETE", "/window"))),
      });
      await tab.goto(new URL(page, server.origin));
      await tab.waitForFunction(() => window.ready);
      return tab;
    },

    /** The tab's process was killed, and the session with it. */
    lose: (tab) => void (windows.get(tab).session.lost = true),

    /** Hides a tab: its window is minimised. */
    async hide(tab) {
      await inWindow(tab, (send) => send("POST", "/window/minimize", {}));
      await tab.waitForFunction(() => document.hidden);
    },

    async show(tab) {
      await inWindow(tab, (send) => send("POST", "/window/rect", {}));
      await tab.waitForFunction(() => !document.hidden);
    },

    async close() {
      await session.then((session) => session.end(), () => {});
      await agents.close();
      await server.close();
    },
  };
  try {
    await session;
  } catch (error) {
    await browser.close();
    throw error;
  }
  return Object.assign(browser, abilities(browser));
}
