// Installs what is missing, and nothing else. Every step first looks whether it is already done,
// so that a second run takes a second. Used by `npm start`, `npm test` and `npm run build`.
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ask, env, must, root, say, script } from "./lib.mjs";

const WASM_PACK = "0.15.1";
const GECKODRIVER = "0.37.1";

/** npm packages, from a folder's lock file; the stamp says for which lock file they were installed. */
async function npmPackages(folder, what) {
  const lock = readFileSync(join(folder, "package-lock.json"));
  const want = createHash("sha256").update(lock).digest("hex");
  const stamp = join(folder, "node_modules/.tab-lease-stamp");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === want) return;
  say(`npm ci: ${what}`);
  await must("npm", ["ci", "--no-fund", "--no-audit"], { cwd: folder });
  writeFileSync(stamp, want);
}

/** The test runners of tests/package/unit.test.mjs. */
export async function setupUnit() {
  await npmPackages(
    join(root, "tests/package/unit"),
    "the test runners that apps use (Jest, Vitest, jsdom, …)",
  );
}

async function rustTarget() {
  if (ask("cargo", ["--version"]) === null) {
    throw new Error(
      "Rust is missing: install it with rustup (the version is in rust-toolchain.toml), then run this again",
    );
  }
  // Where rustup rules, asking for the version has already installed what rust-toolchain.toml names.
  const sysroot = ask("rustc", ["--print", "sysroot"]);
  if (existsSync(join(sysroot, "lib/rustlib/wasm32-unknown-unknown"))) return;
  say("rustup target add wasm32-unknown-unknown: the standard library for WebAssembly");
  await must("rustup", ["target", "add", "wasm32-unknown-unknown"]);
}

async function cargoTool(name, bin, version, why, locked) {
  if (ask(bin, ["--version"])?.split(/\s+/).includes(version)) return;
  say(`cargo install ${name} ${version}: ${why} (some minutes, once)`);
  await must("cargo", ["install", name, "--version", version, "--force", ...(locked ? ["--locked"] : [])]);
}

/** The version of a crate in Cargo.lock. */
function locked(crate) {
  const found = readFileSync(join(root, "Cargo.lock"), "utf8").match(
    new RegExp(`name = "${crate}"\\nversion = "([^"]+)"`),
  );
  return found[1];
}

/** Programs from the system's packages: browsers and their drivers. */
async function systemPackages(wanted) {
  const missing = wanted.filter(({ bin }) => ask("which", [bin]) === null).map(({ apt }) => apt);
  if (missing.length === 0) return;
  const command = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
  if (process.getuid?.() !== 0 || ask("which", ["apt-get"]) === null) {
    throw new Error(
      `missing: ${missing.join(", ")}. Install them from your system's packages (Debian: sudo ${command})`,
    );
  }
  say(`${command}: browsers for the tests`);
  env.DEBIAN_FRONTEND = "noninteractive";
  await must("apt-get", ["update", "-qq"]);
  await must("apt-get", command.split(" ").slice(1), { quiet: true });
}

/** What building the package needs. */
export async function setupBuild() {
  await npmPackages(root, "the development tools of package-lock.json (binaryen, vite, playwright-core, …)");
  await rustTarget();
  await cargoTool("wasm-pack", "wasm-pack", WASM_PACK, "builds and tests the wasm package", true);
  // wasm-bindgen's two halves must have one version; its published lock file names a crate that may be gone.
  await cargoTool(
    "wasm-bindgen-cli",
    "wasm-bindgen",
    locked("wasm-bindgen"),
    "generates the JavaScript glue",
    false,
  );
}

/** What the whole test suite needs, on top of {@link setupBuild}. */
export async function setupTest() {
  await setupBuild();
  await setupUnit();
  await systemPackages([
    { bin: "chromium", apt: "chromium" },
    { bin: "chromedriver", apt: "chromium-driver" },
    { bin: "firefox-esr", apt: "firefox-esr" },
    { bin: "WebKitWebDriver", apt: "webkit2gtk-driver" },
    { bin: "Xvfb", apt: "xvfb" },
  ]);
  await cargoTool("geckodriver", "geckodriver", GECKODRIVER, "lets the tests drive Firefox", true);
}

if (process.argv[1] === import.meta.filename) script(setupTest);
