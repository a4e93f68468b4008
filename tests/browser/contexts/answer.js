// The far side of `open.js`: in whatever context this runs, calls come as messages, each with a port for
// its answer.

/** Lets the page that started this context call these functions. */
export function answer(calls) {
  const listen = (target) =>
    target.addEventListener("message", (event) => {
      const [port] = event.ports;
      const [call, ...args] = event.data;
      const answered = (async () => calls[call](...args))().then(
        (value) => port.postMessage({ value }),
        (error) => port.postMessage({ error: `${error?.name}: ${error?.message}` }),
      );
      // A service worker lives for as long as it has something to do.
      event.waitUntil?.(answered);
    });
  if (!("onconnect" in globalThis)) return listen(globalThis);
  globalThis.onconnect = ({ ports: [port] }) => {
    listen(port);
    port.start();
  };
}
