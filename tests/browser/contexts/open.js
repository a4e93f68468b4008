// Starts a script, which calls `answer()`, in any kind of context that a page can have.

const START = {
  async iframe(script) {
    const frame = document.createElement("iframe");
    frame.src = `/tests/browser/contexts/frame.html?${script}`;
    const loaded = new Promise((resolve) => (frame.onload = resolve));
    document.body.append(frame);
    await loaded;
    await frame.contentWindow.started;
    return {
      post: (call, ports) => frame.contentWindow.postMessage(call, location.origin, ports),
      end: () => frame.remove(),
    };
  },

  dedicated(script) {
    const worker = new Worker(script, { type: "module" });
    return { post: (call, ports) => worker.postMessage(call, ports), end: () => worker.terminate() };
  },

  /** One for all pages; it ends with the last of them. */
  shared(script) {
    const { port } = new SharedWorker(script, { type: "module" });
    return { post: (call, ports) => port.postMessage(call, ports) };
  },

  /** One for all pages; the browser stops it when it likes, and starts it again for the next call. */
  async service(script) {
    const registration = await navigator.serviceWorker.register(script, { type: "module" });
    const worker = registration.installing ?? registration.waiting ?? registration.active;
    await new Promise((resolve) => {
      const look = () => worker.state === "activated" && resolve();
      worker.addEventListener("statechange", look);
      look();
    });
    return { post: (call, ports) => worker.postMessage(call, ports) };
  },
};

/**
 * Starts the script (an absolute path) in an `iframe`, or a `dedicated`, `shared` or `service` worker.
 * Resolves with `{ call, end }`: `call(name, ...args)` calls one of its functions; `end()`, of those that
 * this page can end, ends it.
 */
export async function open(kind, script) {
  const { post, end } = await START[kind](script);
  const call = (...call) =>
    new Promise((resolve, reject) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = ({ data: { value, error } }) => {
        port1.close();
        if (error === undefined) resolve(value);
        else reject(new Error(`${kind}: ${error}`));
      };
      post(call, [port2]);
    });
  return { call, end };
}
