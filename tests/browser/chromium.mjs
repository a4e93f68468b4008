// Real Chromium tabs: every tab in a window of its own, so that none is hidden, and in a renderer
// process of its own, as tabs that a user opens have.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { chromium } from "playwright-core";
import { serve } from "../../scripts/serve.mjs";
import { start, temporaryFolder } from "./processes.mjs";
import { until } from "./until.mjs";

export const can = {
  crash: true,
  crashAmong: true,
  freeze: true,
  hide: true,
  cache: true,
  stopServiceWorkers: true,
  files: true,
  collect: true,
  clearSiteData: true,
  blockSiteData: true,
};

/** How a Chromium is started here. */
export const FLAGS = [
  "--headless=new",
  "--remote-debugging-port=0",
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-quic",
  "--js-flags=--expose-gc",
  // Each new window starts address-bar pages that burn a core for seconds.
  "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup,OmniboxPopupWebUI",
];

async function connect(program, profile) {
  const portFile = join(profile, "DevToolsActivePort");
  const [port, path] = await until("chromium's debugging port", () => {
    program.expect();
    const lines = existsSync(portFile) ? readFileSync(portFile, "utf8").trim().split("\n") : [];
    return lines.length === 2 && lines;
  });
  return chromium.connectOverCDP(`ws://127.0.0.1:${port}${path}`, { noDefaults: true, isLocal: true });
}

/** What a user sets who allows no site to store anything. */
function blockSiteData(profile) {
  mkdirSync(join(profile, "Default"), { recursive: true });
  const preferences = { profile: { default_content_setting_values: { cookies: 2 } } };
  writeFileSync(join(profile, "Default/Preferences"), JSON.stringify(preferences));
}

/** Opens tabs, and does to them what happens to tabs. */
function tabs({ context, devtools, origin }) {
  const ids = new WeakMap();

  async function targetOf(page) {
    const session = await context.newCDPSession(page);
    const { targetInfo } = await session.send("Target.getTargetInfo");
    await session.detach();
    return targetInfo.targetId;
  }

  async function setWindow(tab, windowState) {
    const page = await context.newCDPSession(tab);
    const { windowId } = await page.send("Browser.getWindowForTarget");
    await devtools.send("Browser.setWindowBounds", { windowId, bounds: { windowState } });
  }

  /** Hides a tab: its window is minimised. */
  async function hide(tab) {
    await setWindow(tab, "minimized");
    await tab.waitForFunction(() => document.hidden, undefined, { polling: 100 });
  }

  return {
    /** Opens a tab on a page of this repository (or any other), and waits until `window.ready` is set. */
    async open(page = "/tests/browser/page.html") {
      const url = new URL(page, origin).href;
      const { targetId } = await devtools.send("Target.createTarget", { url, newWindow: true });
      // By its id: when several are opened at once, the next page that appears may be another's.
      const tab = await until("the tab is open", async () => {
        for (const page of context.pages()) {
          if (!ids.has(page)) ids.set(page, await targetOf(page));
          if (ids.get(page) === targetId) return page;
        }
      });
      await tab.waitForFunction(() => window.ready);
      return tab;
    },

    hide,

    async show(tab) {
      await setWindow(tab, "normal");
      await tab.waitForFunction(() => !document.hidden, undefined, { polling: 100 });
    },

    /** Hides a tab, and freezes it as a browser freezes hidden pages. */
    async freeze(tab) {
      await hide(tab);
      const page = await context.newCDPSession(tab);
      await page.send("Page.setWebLifecycleState", { state: "frozen" });
    },

    /** Lets a frozen tab go on, and shows it. */
    async thaw(tab) {
      const page = await context.newCDPSession(tab);
      await page.send("Page.setWebLifecycleState", { state: "active" });
      await setWindow(tab, "normal");
    },
  };
}

/** What only DevTools can do to a tab or a site. */
const devices = ({ context, devtools, origin }) => ({
  /** Kills the renderer of a tab, and tells when. The tab is of no further use; close it. */
  async crash(tab) {
    const page = await context.newCDPSession(tab);
    const crashed = new Promise((resolve) => tab.once("crash", resolve));
    const at = Date.now();
    page.send("Page.crash").catch(() => {});
    await crashed;
    return at;
  },

  async stopServiceWorkers(tab) {
    const page = await context.newCDPSession(tab);
    await page.send("ServiceWorker.enable");
    await page.send("ServiceWorker.stopAllWorkers");
  },

  /** Collects the garbage of a tab. */
  collect: (tab) => tab.evaluate(() => gc()),

  /** Clears what the site of a tab has stored, as a user may. */
  async clearSiteData(tab) {
    const page = await context.newCDPSession(tab);
    await page.send("Storage.clearDataForOrigin", { origin, storageTypes: "indexeddb" });
  },

  /** How many renderer processes show pages of ours. */
  async renderers() {
    const { processInfo } = await devtools.send("SystemInfo.getProcessInfo");
    return processInfo.filter(({ type }) => type === "renderer").length;
  },
  spare: 0,
});

/** A browser of its own, started with those flags, with a server for its pages. Close it when done. */
export async function launch({ answer, flags = [], siteDataBlocked } = {}) {
  const server = await serve({ answer });
  const profile = temporaryFolder("chromium");
  if (siteDataBlocked) blockSiteData(profile.path);
  const program = start("chromium", [...FLAGS, ...flags, `--user-data-dir=${profile.path}`, "about:blank"]);
  const end = async () => {
    await program.stop();
    await server.close();
    profile.remove();
  };
  const browser = await connect(program, profile.path).catch(async (error) => {
    await end();
    throw error;
  });
  const { origin } = server;
  const devtools = await browser.newBrowserCDPSession();
  const here = { context: browser.contexts()[0], devtools, origin };

  return {
    origin,
    devtools,
    ...tabs(here),
    ...devices(here),

    async close() {
      // Its own way out, so that no child process still writes to the profile.
      await devtools.send("Browser.close").catch(() => {});
      await Promise.race([program.exited, pause(5_000, undefined, { ref: false })]);
      await end();
    },
  };
}
