// Random numbers that a seed decides. For node and for pages.

/** A generator of its own for each seed (any string). */
export function random(seed) {
  let state = 2166136261;
  for (const char of seed) state = Math.imul(state ^ char.codePointAt(0), 16777619);
  /** From 0 up to, not including, 1 (mulberry32). */
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  /** A whole number from `least` to `most`. */
  const from = (least, most) => least + Math.floor(next() * (most - least + 1));
  return {
    from,
    /** True in `percent` of a hundred cases. */
    chance: (percent) => next() * 100 < percent,
    /** One key of `{ key: weight }`. */
    pick(weights) {
      let left = next() * Object.values(weights).reduce((sum, weight) => sum + weight, 0);
      return Object.keys(weights).find((key) => (left -= weights[key]) < 0);
    },
  };
}
