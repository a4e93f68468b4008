// Compiled, not run, where TypeScript has the library of `await using`: a lease is what that takes.
import { acquire } from "tab-lease";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <_T extends true>() => {};

export async function uses() {
  await using lease = await acquire("a");
  is<Equal<typeof lease.token, number>>();
  is<Equal<ReturnType<(typeof lease)[typeof Symbol.asyncDispose]>, Promise<void>>>();
  const disposable: AsyncDisposable = lease;
  return disposable;
}
