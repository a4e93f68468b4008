import "fake-indexeddb/auto";
import * as tabLease from "tab-lease";
import scenario from "../scenario.cjs";

console.log(await scenario(tabLease));
