// Pages that the browser prerenders: nobody has opened them, and perhaps nobody will.

/** @type {Promise<unknown> | undefined} */
let activation;

/** A document of a browser that prerenders. @typedef {Document & { prerendering?: boolean }} Prerendering */

export const isPrerendered = () =>
  /** @type {Prerendering | undefined} */ (globalThis.document)?.prerendering === true;

/** Resolves when this page is opened. */
export const activated = () =>
  (activation ??= new Promise((resolve) =>
    document.addEventListener("prerenderingchange", resolve, { once: true }),
  ));
