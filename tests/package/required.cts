// Compiled, not run: what `require` gives has types, too.
import { acquire, type Lease } from "tab-lease";
import inline = require("tab-lease/inline");

export const lease: Promise<Lease> = acquire("a");
export const other: Promise<Lease> = inline.acquire("b");
