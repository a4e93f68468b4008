import { acquire } from "tab-lease";

const error = await acquire("a", { timeout: 5_000 }).catch((error) => error);
console.log(error.name, error.code);
