// Lets the tests evaluate in this page without the browser's help (see agent.mjs): a page that is
// opened as `…#agent=<port>/<tab>` calls home and does as it is told.
{
  const [, address] = location.hash.match(/^#agent=(\d+\/\d+)$/) ?? [];

  const answer = async ({ id, source, arg }) => {
    try {
      return JSON.stringify({ id, value: await (0, eval)(`(${source})`)(arg) });
    } catch (error) {
      return JSON.stringify({ id, error: `${error}\n${error?.stack ?? ""}` });
    }
  };

  const callHome = () => {
    const socket = new WebSocket(`ws://127.0.0.1:${address}`);
    socket.onmessage = async ({ data }) => socket.send(await answer(JSON.parse(data)));
  };

  if (address) {
    callHome();
    // Out of the back/forward cache: the connection was closed when the page went into it.
    addEventListener("pageshow", ({ persisted }) => persisted && callHome());
  }
}
