// Pages that the browser prerenders: nobody has opened them, and perhaps nobody will.

let activation;

export const isPrerendered = () => globalThis.document?.prerendering === true;

/** Resolves when this page is opened. */
export const activated = () =>
  (activation ??= new Promise((resolve) => document.addEventListener("prerenderingchange", resolve, { once: true })));
