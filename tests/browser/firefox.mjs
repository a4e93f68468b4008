// Real Firefox tabs, driven by geckodriver.
import { processes, temporaryFolder } from "./processes.mjs";
import { until } from "./until.mjs";
import * as webdriver from "./webdriver.mjs";

export const can = {
  crash: true,
  crashAmong: true,
  hide: true,
  files: true,
  collect: true,
  clearSiteData: true,
  blockSiteData: true,
};

const PREFERENCES = {
  // Every tab has a process, as many tabs as there may be, and takes it along when it is closed.
  "dom.ipc.processCount.webIsolated": 32,
  "dom.ipc.keepProcessesAlive.webIsolated.max": 0,
  // Hidden tabs are throttled as those of users are; automation turns that off.
  "dom.min_background_timeout_value": 1000,
  "dom.timeout.enable_budget_timer_throttling": true,
};

/** What a user sets who allows no site to store anything. */
const BLOCKED = { "network.cookie.cookieBehavior": 2 };

/** What runs with the browser's own rights. */
const inBrowser = async (send, script, args = []) => {
  await send("POST", "/moz/context", { context: "chrome" });
  const value = await send("POST", "/execute/sync", { script, args });
  await send("POST", "/moz/context", { context: "content" });
  return value;
};

async function begin(profiles, siteDataBlocked) {
  const session = await webdriver.begin({
    driver: "geckodriver",
    args: ["--allow-system-access", `--profile-root=${profiles}`],
    capabilities: {
      browserName: "firefox",
      "moz:firefoxOptions": {
        binary: "/usr/bin/firefox-esr",
        args: ["-headless"],
        prefs: { ...PREFERENCES, ...(siteDataBlocked && BLOCKED) },
      },
    },
  });
  // geckodriver makes a browser end when one of its tabs crashes.
  await session.inWindow(undefined, (send) =>
    inBrowser(send, 'Services.env.set("MOZ_CRASHREPORTER_SHUTDOWN", "")'),
  );
  return session;
}

export async function launch({ answer, siteDataBlocked } = {}) {
  const profiles = temporaryFolder("firefox");
  const browser = await webdriver
    .launch({ answer, begin: () => begin(profiles.path, siteDataBlocked), abilities })
    .catch((error) => {
      profiles.remove();
      throw error;
    });
  return {
    ...browser,
    async close() {
      await browser.close();
      profiles.remove();
    },
  };
}

const abilities = (browser) => ({
  /** How many processes show pages of ours. */
  renderers: async () => processes(await browser.group(), "Isolated Web Content").length,
  spare: 0,

  /** Kills the process of a tab, and tells when. The tab is of no further use; close it. */
  async crash(tab) {
    const script = "return gBrowser.selectedBrowser.browsingContext.currentWindowGlobal.osPid";
    const pid = await browser.inWindow(tab, (send) => inBrowser(send, script));
    const at = Date.now();
    process.kill(pid, "SIGKILL");
    await until("the page is gone", () => !tab.connected);
    return at;
  },

  /** Collects the garbage of a tab (and of all others). */
  collect: (tab) =>
    browser.inWindow(tab, (send) =>
      inBrowser(send, 'Services.obs.notifyObservers(null, "child-gc-request")'),
    ),

  /** Clears what the site of a tab has stored, as a user may. */
  clearSiteData: (tab) =>
    browser.inWindow(tab, (send) =>
      inBrowser(send, "Services.qms.clearStoragesForPrincipal(gBrowser.contentPrincipal)"),
    ),
});
