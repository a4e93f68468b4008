// Real Chromium tabs: every tab in a window of its own, so that none is hidden, and in a renderer
// process of its own, as tabs that a user opens have.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { chromium } from "playwright-core";
import { serve } from "../../scripts/serve.mjs";

const FLAGS = [
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

/** Waits until `look` answers with something truthy, and answers with that. */
export async function until(what, look, ms = 15_000) {
  const end = Date.now() + ms;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await pause(10);
  }
}

/** A browser of its own, with a server for its pages. Close it when done. */
export async function launch({ answer } = {}) {
  const server = await serve({ answer });
  const profile = mkdtempSync(join(tmpdir(), "tab-lease-chromium-"));
  const process = spawn("chromium", [...FLAGS, `--user-data-dir=${profile}`, "about:blank"], { stdio: "ignore" });
  const exited = new Promise((resolve) => process.on("exit", resolve));
  const portFile = join(profile, "DevToolsActivePort");
  const [port, path] = await until("chromium's debugging port", () => {
    const lines = existsSync(portFile) ? readFileSync(portFile, "utf8").trim().split("\n") : [];
    return lines.length === 2 && lines;
  });
  const browser = await chromium.connectOverCDP(`ws://127.0.0.1:${port}${path}`, { noDefaults: true, isLocal: true });
  const context = browser.contexts()[0];
  const devtools = await browser.newBrowserCDPSession();
  const ids = new WeakMap();

  async function targetOf(page) {
    const session = await context.newCDPSession(page);
    const { targetInfo } = await session.send("Target.getTargetInfo");
    await session.detach();
    return targetInfo.targetId;
  }

  return {
    origin: server.origin,
    devtools,

    /** Opens a tab on a page of this repository (or any other), and waits until `window.ready` is set. */
    async open(page = "/tests/browser/page.html") {
      const url = new URL(page, server.origin).href;
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

    /** Hides a tab (its window is minimised), and freezes it as a browser freezes hidden pages. */
    async freeze(tab) {
      const page = await context.newCDPSession(tab);
      const { windowId } = await page.send("Browser.getWindowForTarget");
      await devtools.send("Browser.setWindowBounds", { windowId, bounds: { windowState: "minimized" } });
      await tab.waitForFunction(() => document.hidden, undefined, { polling: 100 });
      await page.send("Page.setWebLifecycleState", { state: "frozen" });
    },

    /** Kills the renderer of a tab. The tab is of no further use; close it. */
    async crash(tab) {
      const page = await context.newCDPSession(tab);
      const crashed = new Promise((resolve) => tab.once("crash", resolve));
      page.send("Page.crash").catch(() => {});
      await crashed;
    },

    /** How many renderer processes show pages of ours. */
    async renderers() {
      const { processInfo } = await devtools.send("SystemInfo.getProcessInfo");
      return processInfo.filter(({ type }) => type === "renderer").length;
    },

    async close() {
      // Its own way out, so that no child process still writes to the profile.
      await devtools.send("Browser.close").catch(() => {});
      await Promise.race([exited, pause(5_000, undefined, { ref: false })]);
      process.kill("SIGKILL");
      await exited;
      await server.close();
      rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    },
  };
}
