// Reads a wasm module's sections, as far as the build changes them.

/** Reads numbers and bytes one after the other. */
export class Reader {
  constructor(bytes, at = 0) {
    this.bytes = bytes;
    this.at = at;
  }

  byte() {
    return this.bytes[this.at++];
  }

  /** A number as wasm spells it (LEB128). */
  number() {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = this.byte();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
  }
}

/** Where the content of each section is, by the section's number: `[from, to]`. */
export function sections(wasm) {
  const found = {};
  const reader = new Reader(wasm, 8);
  while (reader.at < wasm.length) {
    const id = reader.byte();
    const length = reader.number();
    found[id] = [reader.at, (reader.at += length)];
  }
  return found;
}

const I32_CONST = 0x41;

/** The data segments: where each goes in memory, and its bytes, a view into the module. */
export function segments(wasm) {
  const reader = new Reader(wasm, sections(wasm)[11][0]);
  return Array.from({ length: reader.number() }, () => {
    const isActive = reader.number() === 0 && reader.byte() === I32_CONST;
    if (!isActive) throw new Error("a data segment is not an active one");
    const address = reader.number();
    reader.at++; // the end of the expression
    const length = reader.number();
    return { address, bytes: wasm.subarray(reader.at, (reader.at += length)) };
  });
}
