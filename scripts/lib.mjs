// What the scripts share: where things are, how commands are run, how output is told.
import { spawn, spawnSync } from "node:child_process";
import { delimiter, dirname, join } from "node:path";
import { homedir } from "node:os";
import { fileURLToPath } from "node:url";

/** The repository's root. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/**
 * The oldest browsers that are supported, as README.md says: Safari 15.4, and the versions of the others that
 * were current two years ago (in November 2024). What is shipped has no newer syntax.
 */
export const TARGET = ["safari15.4", "ios15.4", "chrome131", "edge131", "firefox133"];

const cargoBin = join(process.env.CARGO_HOME ?? join(homedir(), ".cargo"), "bin");

/** The environment every tool is run in: tools installed by cargo and by npm come first. */
export const env = {
  ...process.env,
  PATH: [join(root, "node_modules/.bin"), cargoBin, process.env.PATH].join(delimiter),
};

/** One line that says what happens now, and why. */
export function say(line) {
  console.log(`\x1b[1m» ${line}\x1b[0m`);
}

/**
 * Runs a command; resolves with its exit code and, where asked, its text. Its output is shown, unless
 * `quiet`; with `tee` it is shown and kept.
 */
export function run(command, args, { quiet = false, cwd = root, extraEnv = {}, tee = false } = {}) {
  return new Promise((resolve, reject) => {
    const capture = quiet || tee;
    const child = spawn(command, args, {
      cwd,
      env: { ...env, ...extraEnv },
      stdio: ["ignore", capture ? "pipe" : "inherit", capture && quiet !== "stdout" ? "pipe" : "inherit"],
    });
    let text = "";
    if (capture) {
      for (const stream of [child.stdout, ...(quiet === "stdout" ? [] : [child.stderr])]) {
        stream.setEncoding("utf8");
        stream.on("data", (chunk) => {
          text += chunk;
          if (tee) process.stdout.write(chunk);
        });
      }
    }
    child.on("error", (error) => reject(new Error(`${command} could not be started: ${error.message}`)));
    child.on("close", (code, signal) => resolve({ code: code ?? 1, signal, text }));
  });
}

/** Runs a command that must succeed. */
export async function must(command, args, options) {
  const done = await run(command, args, options);
  if (done.code !== 0) {
    const said = done.text ? `:\n${done.text}` : "";
    throw new Error(`${[command, ...args].join(" ")} failed with exit code ${done.code}${said}`);
  }
  return done.text;
}

/** What a command prints, trimmed; null where it is missing or fails. */
export function ask(command, args) {
  const done = spawnSync(command, args, { cwd: root, env, encoding: "utf8" });
  return done.status === 0 ? done.stdout.trim() : null;
}

/** Runs `main` and turns a thrown error into one clear line and exit code 1. */
export function script(main) {
  main().catch((error) => {
    console.error(`\n✗ ${error.message}`);
    process.exitCode = 1;
  });
}
