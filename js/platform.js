// What wasm-bindgen's glue takes from the platform, which may be no browser but stand in for one in tests.

// UTF-8 where there are no coders: jsdom under Jest.

class Encoder {
  /** @param {string} text */
  encode(text) {
    const whole = text.replace(/[\uD800-\uDFFF]/gu, "\uFFFD");
    const bytes = encodeURIComponent(whole).match(/%..|./g) ?? [];
    return Uint8Array.from(bytes, (byte) => (byte[1] ? parseInt(byte.slice(1), 16) : byte.charCodeAt(0)));
  }
}

class Decoder {
  /** @param {Iterable<number>} bytes */
  decode(bytes = []) {
    return decodeURIComponent(Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join(""));
  }
}

export const TextEncoder = globalThis.TextEncoder ?? Encoder;
export const TextDecoder = globalThis.TextDecoder ?? Decoder;

/** The platform's. In Node an open one would keep the process from ending. @param {string} name */
export function BroadcastChannel(name) {
  const channel = new globalThis.BroadcastChannel(name);
  /** @type {{ unref?(): void }} */ (channel).unref?.();
  return channel;
}
