// Finds the constants of a module that no code of it refers to, and makes zeros of them.
//
// The linker keeps what was referred to when it ran. Since then the panic machinery was emptied (see
// shrink.mjs): with it went all use of its texts, of the paths and line numbers of every panic site, and of
// Unicode's tables. That is most of the module's data. wasm-opt does not see what lies where; the linker's
// map says so. Zeros cost nothing: wasm-opt leaves them out, since memory is zero to begin with.
import { readFileSync } from "node:fs";
import { sections, segments } from "./wasm_sections.mjs";

/** A reference may be computed from an address a little before what it is to: `table[n - 1]`. */
const MARGIN = 8;

/** What the linker put where. A line is an address, an offset, a length (all in hexadecimal), a name. */
function chunksOf(map) {
  const text = readFileSync(map, "utf8");
  const data = text.slice(text.search(/^.* DATA$/m));
  // Indented more than a section is: the part of one that came from one file.
  const lines = data.matchAll(/^ *([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) {9}\S.*:\(([^)]*)\)$/gm);
  return Array.from(lines, ([, at, length, name]) => {
    const from = parseInt(at, 16);
    return { from, to: from + parseInt(length, 16), name };
  });
}

/** The linker merges zero-terminated texts into one chunk. */
function* split({ from, to, name }, byteAt) {
  if (name !== ".rodata") return yield { from, to, name };
  for (let at = from; at < to; at++) {
    if (byteAt(at) !== 0) continue;
    yield { from, to: at + 1, name };
    from = at + 1;
  }
}

/**
 * Every address that the code may name, and some that it does not: whatever in its bytes reads like one.
 * Addresses of data are from 2²⁰ on, so as an offset they take three bytes, as a constant four.
 */
function* named(code) {
  for (let at = 0; at + 3 < code.length; at++) {
    const [one, two, three, four] = code.subarray(at, at + 4);
    const isNumber = one >= 0x80 && two >= 0x80 && (three < 0x80 || four === 0);
    if (isNumber) yield (one & 0x7f) | ((two & 0x7f) << 7) | ((three & 0x7f) << 14);
  }
}

/** Overwrites, in place, the constants that nothing refers to. Answers how many bytes that were. */
export function zeroDeadData(wasm, map) {
  const data = segments(wasm);
  const home = (at) => data.find(({ address, bytes }) => at >= address && at < address + bytes.length);
  const byteAt = (at) => {
    const segment = home(at);
    return segment ? segment.bytes[at - segment.address] : 0;
  };
  const chunks = chunksOf(map).flatMap((chunk) => [...split(chunk, byteAt)]);
  // The first: its address is one that wasm-opt may spell as a negative number.
  const [first, ...rest] = chunks;
  if (!(first?.from >= 2 ** 20 && rest.length > 50)) throw new Error("the linker's map has changed its form");
  // What the map did not name would not be asked what it refers to. Between chunks there is only what aligns
  // them.
  const end = Math.max(...data.map(({ address, bytes }) => address + bytes.length));
  const ends = [...rest.map((chunk) => chunk.from), end];
  const isWhole = data[0].address >= first.from && chunks.every(({ to }, place) => ends[place] - to < 16);
  if (!isWhole) throw new Error("the linker's map is of another build, or has changed its form");
  const alive = new Set();
  const refer = (address) => {
    for (const chunk of chunks) if (address < chunk.to && address + MARGIN >= chunk.from) alive.add(chunk);
  };
  refer(first.from);
  for (const address of new Set(named(wasm.subarray(...sections(wasm)[10])))) refer(address);
  for (const chunk of chunks) if (!chunk.name.startsWith(".rodata")) alive.add(chunk);
  // What is added while this runs is seen, too.
  for (const { from, to } of alive) {
    for (let at = from; at + 4 <= to; at++) {
      refer(byteAt(at) | (byteAt(at + 1) << 8) | (byteAt(at + 2) << 16) | (byteAt(at + 3) << 24));
    }
  }
  let dead = 0;
  for (const { from, to } of chunks.filter((chunk) => !alive.has(chunk))) {
    for (let at = from; at < to; at++) {
      const segment = home(at);
      if (segment) segment.bytes[at - segment.address] = 0;
    }
    dead += to - from;
  }
  return dead;
}
