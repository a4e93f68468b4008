// Evaluates in pages that run agent.js. WebDriver does one thing at a time; here, every tab has a
// WebSocket, over which any number of evaluations are under way.
import { once } from "node:events";
import { WebSocketServer } from "ws";
import { until } from "./until.mjs";

/** What pending evaluations end with when their page goes away: closed, navigated or killed. */
class PageGone extends Error {
  name = "PageGone";
}

/** A tab, as far as evaluating in it goes: what is evaluated, and how, is as in playwright. */
class Tab {
  #socket;
  #pending = new Map();
  #ids = 0;

  /** A page has called home: the tab's first one, or the next. */
  connect(socket) {
    const pending = (this.#pending = new Map());
    this.#socket = socket;
    socket.on("message", (data) => {
      const { id, value, error } = JSON.parse(data);
      const { resolve, reject } = pending.get(id);
      pending.delete(id);
      if (error === undefined) resolve(value);
      else reject(new Error(error));
    });
    socket.on("close", () => {
      if (this.#socket === socket) this.#socket = undefined;
      for (const { reject } of pending.values()) reject(new PageGone("the page is gone"));
    });
  }

  /** Whether there is a page that answers. */
  get connected() {
    return this.#socket !== undefined;
  }

  /** Calls a function, which sees nothing but the page and `arg`, in the tab. JSON comes back. */
  async evaluate(evaluated, arg) {
    const socket = await until("the tab has a page", () => this.#socket);
    const id = ++this.#ids;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      socket.send(JSON.stringify({ id, source: String(evaluated), arg }));
    });
  }

  /** Waits until the function answers with something truthy, in this page or the next. */
  waitForFunction(evaluated, arg) {
    const look = async () => {
      try {
        return await this.evaluate(`async (arg) => Boolean(await (${evaluated})(arg))`, arg);
      } catch (error) {
        if (!(error instanceof PageGone)) throw error;
      }
    };
    return until(`in the tab: ${evaluated}`, look, 30_000);
  }
}

/** Where pages call home. */
export async function listen() {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  await once(server, "listening");
  const { port } = server.address();
  const tabs = [];
  server.on("connection", (socket, { url }) => tabs[Number(url.slice(1))]?.connect(socket));
  return {
    /** A tab that is still to be opened, and what makes a URL call home for it. */
    expect() {
      const tab = new Tab();
      const hash = `#agent=${port}/${tabs.push(tab) - 1}`;
      return { tab, urlOf: (url) => new URL(hash, url).href };
    },

    async close() {
      for (const client of server.clients) client.terminate();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
