require("fake-indexeddb/auto");
const scenario = require("../scenario.cjs");

test("the package, in the environment of the app's tests", async () => {
  expect(typeof window).toBe(process.env.WANT_WINDOW);
  expect(await scenario(require("tab-lease"))).toBe("done");
});
