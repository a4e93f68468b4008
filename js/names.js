// Any JavaScript string is the name of a lock.
//
// Rust strings cannot hold lone surrogates. Each is written as U+FFFF and four hex digits, and so is U+FFFF
// itself.

/** @param {string} name */
export const encodeName = (name) =>
  name.replace(/[\uFFFF\p{Surrogate}]/gu, (unit) => `\uFFFF${unit.charCodeAt(0).toString(16)}`);

/** @param {string} key */
export const decodeName = (key) =>
  key.replace(/\uFFFF([0-9a-f]{4})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
