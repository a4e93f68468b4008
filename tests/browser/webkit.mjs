// Real WebKit tabs: those of WebKitGTK's MiniBrowser, on a display that nobody sees.
import { ask } from "../../scripts/lib.mjs";
import { processes, start, temporaryFolder, threads } from "./processes.mjs";
import { until } from "./until.mjs";
import * as webdriver from "./webdriver.mjs";

export const can = { crash: true, hide: true, collect: true, clearSiteData: false };

/** A display; Xvfb chooses its number and tells it. */
async function display() {
  // Asked to end, it takes its lock file along.
  const xvfb = start("Xvfb", ["-displayfd", "3", "-screen", "0", "1280x1024x24", "-nolisten", "tcp"], {
    stdio: ["ignore", "ignore", "ignore", "pipe"],
    signal: "SIGTERM",
  });
  let number = "";
  xvfb.stdio[3]?.on("data", (data) => (number += data));
  await until("a display", () => {
    xvfb.expect();
    return number.endsWith("\n");
  });
  return { name: `:${number.trim()}`, stop: xvfb.stop };
}

function begin(display, profile) {
  return webdriver.begin({
    driver: "WebKitWebDriver",
    env: {
      ...process.env,
      DISPLAY: display,
      HOME: profile,
      XDG_CACHE_HOME: profile,
      XDG_CONFIG_HOME: profile,
      XDG_DATA_HOME: profile,
      // Nobody is asked over D-Bus: there may be nobody.
      GSETTINGS_BACKEND: "memory",
      NO_AT_BRIDGE: "1",
    },
    capabilities: {
      "webkitgtk:browserOptions": { binary: miniBrowser(), args: ["--automation"] },
    },
  });
}

function miniBrowser() {
  const found = ask("dpkg", ["-L", "libwebkit2gtk-4.1-0"])?.match(/^.*\/MiniBrowser$/m);
  if (!found) throw new Error("WebKitGTK's MiniBrowser is missing: npm run setup installs it");
  return found[0];
}

export async function launch({ answer } = {}) {
  const profile = temporaryFolder("webkit");
  const screen = await display();
  const end = async () => {
    await screen.stop();
    profile.remove();
  };
  const browser = await webdriver
    .launch({ answer, begin: () => begin(screen.name, profile.path), abilities })
    .catch(async (error) => {
      await end();
      throw error;
    });
  return {
    ...browser,
    async close() {
      await browser.close();
      await end();
    },
  };
}

const WORKERS = 5;

const abilities = (browser) => {
  const renderers = async () => processes(await browser.group(), "WebKitWebProcess");

  /** Nothing tells the process of a tab. But when the tab starts workers, their threads are there. */
  async function processOf(tab) {
    const workers = (pid) => threads(pid, "WebCore: Worker");
    const before = new Map((await renderers()).map((pid) => [pid, workers(pid)]));
    await tab.evaluate((count) => {
      const idle = URL.createObjectURL(new Blob([]));
      window.workers = Array.from({ length: count }, () => new Worker(idle));
    }, WORKERS);
    return until("the tab's process", () =>
      [...before.keys()].find((pid) => workers(pid) === before.get(pid) + WORKERS),
    );
  }

  return {
    /** How many processes show pages, or are spare: as many more may be kept for tabs to come. */
    renderers: async () => (await renderers()).length,
    spare: 1,

    /**
     * Kills the process of a tab, and tells when. That ends the session as well: the other tabs go on,
     * but no window of theirs can be navigated or closed, and the next tab is opened in a new browser.
     */
    async crash(tab) {
      const pid = await processOf(tab);
      browser.lose(tab);
      const at = Date.now();
      process.kill(pid, "SIGKILL");
      await until("the page is gone", () => !tab.connected);
      return at;
    },

    /** Makes some garbage in a tab. Called again and again, it makes the engine collect that and all else. */
    collect: (tab) =>
      tab.evaluate(() => {
        for (let n = 0; n < 16; n++) new Uint8Array(1 << 20).fill(n);
      }),
  };
};
