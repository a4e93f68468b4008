// Programs that the tests start. Each leads a process group, so that whatever it starts can be ended
// with it; and none outlives the process that started it, however that ends.
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What is still to be undone, in the order in which it was done. */
const undo = new Set();

process.on("exit", () => [...undo].reverse().forEach((end) => end()));
for (const signal of ["SIGHUP", "SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

/** Starts a program. `stop` ends its group by `signal`, and waits for the program itself. */
export function start(command, args, { env = process.env, stdio = "ignore", signal = "SIGKILL" } = {}) {
  const child = spawn(command, args, { env, stdio, detached: true });
  let ended;
  const exited = new Promise((resolve) => {
    child.on("error", ({ message }) => resolve((ended = `could not be started: ${message}`)));
    child.on("exit", (code, signal) => resolve((ended ??= `ended (${code ?? signal})`)));
  });
  const end = () => {
    try {
      if (child.pid) process.kill(-child.pid, signal);
    } catch {
      // Nobody is left in the group.
    }
  };
  undo.add(end);
  return {
    group: child.pid,
    stdio: child.stdio,
    exited,

    /** Throws if the program has ended. */
    expect() {
      if (ended) throw new Error(`${command} ${ended}`);
    },

    async stop() {
      end();
      await exited;
      undo.delete(end);
    },
  };
}

/** A folder for a profile. Remove it when nobody writes to it any more. */
export function temporaryFolder(name) {
  const path = mkdtempSync(join(tmpdir(), `tab-lease-${name}-`));
  const remove = () => {
    rmSync(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    undo.delete(remove);
  };
  undo.add(remove);
  return { path, remove };
}

/** The processes of a group that run the program (the kernel keeps 15 letters of a name). */
export function processes(group, program) {
  return readdirSync("/proc").filter((pid) => {
    try {
      const [, name, rest] = readFileSync(`/proc/${pid}/stat`, "utf8").match(/^\d+ \((.*)\) (.*)/s);
      const [state, , itsGroup] = rest.split(" ");
      return name === program.slice(0, 15) && state !== "Z" && Number(itsGroup) === group;
    } catch {
      return false; // no process, or one that has just ended
    }
  }).map(Number);
}

/** How many threads of that name a process has. */
export function threads(pid, name) {
  const named = (thread) => readFileSync(`/proc/${pid}/task/${thread}/comm`, "utf8").trim() === name;
  try {
    return readdirSync(`/proc/${pid}/task`).filter(named).length;
  } catch {
    return 0; // it, or one of them, has just ended
  }
}
