// fake-indexeddb needs it, and Jest's jsdom has none.
const { deserialize, serialize } = require("node:v8");
globalThis.structuredClone ??= (value) => deserialize(serialize(value));
