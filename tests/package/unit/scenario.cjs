// What an app's unit test does with a lock; the same under every runner.
module.exports = async function scenario({ acquire, createLocks, query, withLease }) {
  // A name that is not ASCII, lone surrogate included, goes through coders of text, which Jest's jsdom lacks.
  const name = "Zähler \u{1F512} \uD83D";
  let count = 0;
  const add = async () => {
    const seen = count;
    await new Promise((resolve) => setTimeout(resolve, 1));
    count = seen + 1;
  };
  const turns = Array.from({ length: 5 }, () => withLease(name, { timeout: 5_000, scope: "request" }, add));
  await Promise.all(turns);
  if (count !== 5) throw new Error(`five turns counted to ${count}`);

  const lease = await acquire(name, { timeout: 5_000 });
  const { held } = await query();
  if (held[0]?.name !== name || held[0].token !== lease.token)
    throw new Error(`held: ${JSON.stringify(held)}`);
  const other = await createLocks({ holder: "\uD83D another" }).tryAcquire(name);
  if (other !== null) throw new Error("another holder got the lock");
  if (lease.signal.aborted) throw lease.signal.reason;
  await lease.release();
  return "done";
};
