import "fake-indexeddb/auto";
import * as tabLease from "tab-lease";
import { expect, test } from "vitest";
import scenario from "../scenario.cjs";

test("the package, in the environment of the app's tests", async () => {
  expect(typeof window).toBe(process.env.WANT_WINDOW);
  expect(await scenario(tabLease)).toBe("done");
});
