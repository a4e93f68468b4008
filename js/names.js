// Any JavaScript string is the name of a lock; Rust's strings are Unicode.

// Any JavaScript string is a name. Rust's strings cannot hold lone surrogates, so those are spelled
// out behind a code point that no text has any business with, and so is that one.
export const encodeName = (name) =>
  name.replace(/[\uFFFF\p{Surrogate}]/gu, (unit) => `\uFFFF${unit.charCodeAt(0).toString(16)}`);
export const decodeName = (key) => key.replace(/\uFFFF([0-9a-f]{4})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
