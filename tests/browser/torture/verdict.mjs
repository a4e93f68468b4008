// Judges the log of a torture: what must never happen, whatever was done to the tabs.

/** How far the clocks of two contexts may be apart, in ms, with the time that it takes to tell. */
const CLOCKS = 10;
/** How late a context may be with what was due, in ms, while it runs: the machine is busy. */
const LATE = 500;
/** The same in a hidden page, whose timers fire once a second. */
const LATE_HIDDEN = 2_500;
/** For how long a holder may go on, in ms of running, after another has got the lock. */
const NOTICE = 100;
/** How long the leases are that somebody waits for, in ms: the default. */
const LEASE = 500;
/** A page that is merely hidden is not told of less often than that, in ms. */
const THROTTLED = 1_500;
/** What a lock may take when nobody is left who holds it, in ms, beside the lease that somebody died with. */
const FINAL = 1_000;
/** The longest lease that there is, in ms: nobody waited, and then its holder died. */
export const LONGEST_LEASE = 20_000;
/** How many sections the tab that is left alone gets through in a minute, at the least. */
const PROGRESS = 30;

const overlap = (from, to, span) => Math.max(0, Math.min(to, span.to) - Math.max(from, span.from));
const sum = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
const count = (list) => list.reduce((counts, key) => ({ ...counts, [key]: (counts[key] ?? 0) + 1 }), {});
const by = (key) => (a, b) => a[key] - b[key];

/** The log, sorted out by client, request and name. */
function sortOut(entries) {
  const clients = new Map();
  const requests = new Map();
  for (const entry of entries) {
    const { client, what, at, request } = entry;
    if (client === undefined) continue;
    if (!clients.has(client)) clients.set(client, { gaps: [], last: at, ran: at });
    const here = clients.get(client);
    here.last = Math.max(here.last, at);
    // It is known to have run until then, its gaps aside; later it may have stood still and then died.
    if (what === "gap" || what === "alive") here.ran = Math.max(here.ran, at);
    if (what === "gap") here.gaps.push(entry);
    if (request === undefined) continue;
    const id = `${client}: ${request}`;
    if (what === "ask") requests.set(id, { id, client, name: entry.name, ask: entry, steps: [] });
    const found = requests.get(id);
    // Its first entries are lost if a recorder that has just begun did not hear them.
    if (!found) continue;
    if (what === "got" || what === "failed" || what === "busy") found.settled = entry;
    if (what === "got") found.got = entry;
    if (what === "step") found.steps.push(entry);
    if (what === "release" || what === "lost") found.ended ??= entry;
  }
  return { clients, requests: [...requests.values()] };
}

/** How long clients ran, as far as is known. */
function running(clients) {
  /** How long one ran between two times. `throttled`: a hidden page's waits for its timers count, too. */
  const ran = (client, from, to, throttled = false) => {
    const here = clients.get(client);
    const gaps = here.gaps.filter((gap) => !(throttled && gap.hidden && gap.to - gap.from < THROTTLED));
    const known = Math.min(to, here.ran);
    return Math.max(0, known - from - sum(gaps.map((gap) => overlap(from, known, gap))));
  };
  /** Whether one stood still for a moment between two times, or may have. */
  const stood = (client, from, to) => to - from - ran(client, from, to) > 1;
  return { ran, stood };
}

/** 1. No update is lost. */
function judgeUpdates({ values, rows, violated }) {
  for (const name in values) {
    const written = rows.filter((row) => row.name === name);
    if (values[name] === written.length) continue;
    const twice = written.find((row, n) => written.findIndex(({ value }) => value === row.value) < n);
    const first = written.find((row) => row.value === twice?.value);
    const found = `${written.length} writes, but ${values[name]} is the value`;
    violated("lost update", 0, `${name}: ${found}; ${describe(first)} and ${describe(twice)}`);
  }
}

/** 2. No two hold: a token belongs to one client … */
function judgeTokens({ leases, rows, violated }) {
  const owners = new Map();
  for (const { client, name, token, at } of [...leases.map(({ got }) => got), ...rows]) {
    const key = `${name} ${token}`;
    if (!owners.has(key)) owners.set(key, client);
    if (owners.get(key) === client) continue;
    violated("two holders", at ?? 0, `${key} was had by ${owners.get(key)} and by ${client}`);
  }
}

/** … nobody gets a lock while another client holds it and runs … */
function judgeOverlaps(ofName, { clients, ran, stood, violated }) {
  ofName.forEach((older, n) => {
    const end = older.ended?.at ?? clients.get(older.client).last;
    for (const newer of ofName.slice(n + 1)) {
      if (newer.got.at > end) break;
      const both = ran(older.client, newer.got.at, end);
      const inOne = older.client === newer.client && !stood(older.client, older.got.at, end);
      if (both <= (inOne ? 0 : NOTICE)) continue;
      const text = `${describe(newer.got)} while ${describe(older.got)} for ${Math.round(both)} ms more`;
      violated("two holders", newer.got.at, text);
    }
  });
}

/** … and a client that was passed over knows it before it goes on, even if it stood still meanwhile. */
function judgeSteps(ofName, { stood, violated }) {
  const steps = ofName.flatMap((lease) => lease.steps).sort(by("at"));
  let highest;
  let next = 0;
  for (const step of steps) {
    for (; next < ofName.length && ofName[next].got.at <= step.at - CLOCKS; next++) {
      if (!(highest?.token > ofName[next].got.token)) highest = ofName[next].got;
    }
    if (!(highest?.token > step.token)) continue;
    const kind = stood(step.client, highest.at - LEASE, step.at) ? "not told" : "two holders";
    const late = Math.round(step.at - highest.at);
    violated(kind, step.at, `${describe(step)}, ${late} ms after ${describe(highest)}`);
  }
}

/** 3. No request is stuck. Answers with the longest wait that ended well. */
function judgeWaits({ requests, clients, ran, violated }) {
  let longest = 0;
  for (const { client, ask, settled, got } of requests) {
    const { last, gaps } = clients.get(client);
    const end = settled?.at ?? last;
    const hidden = gaps.some((gap) => gap.hidden && overlap(ask.at, end, gap) > 0);
    const late = ran(client, ask.at, end, true) - ask.ms;
    if (got) longest = Math.max(longest, end - ask.at);
    if (late <= (hidden ? LATE_HIDDEN : LATE)) continue;
    const how = settled ? "answered" : "not answered";
    violated("stuck", ask.at, `${describe(ask)}, ${how} ${Math.round(late)} ms late`);
  }
  return longest;
}

/** A lock that nobody holds any more is soon to be had. */
function judgeFinal({ final, stalls, violated }) {
  for (const name in final) {
    const { from, to, leaseMs } = final[name];
    const took = to - from;
    const stalled = sum(stalls.map((stall) => overlap(from, to, stall)));
    if (took - stalled <= Math.max(LEASE, leaseMs) + FINAL) continue;
    violated("stuck", from, `${name} took ${Math.round(took)} ms when nobody held it any more`);
  }
}

/** 4. The tab that is left alone gets on. */
function judgeProgress({ rows, stalls, ms, violated }) {
  const alone = rows.filter(({ client }) => client.startsWith("tab 0 window")).length;
  const stalled = sum(stalls.map(({ from, to }) => to - from));
  const least = (PROGRESS * Math.max(0, ms - stalled)) / 60_000;
  if (alone >= least) return;
  violated("no progress", 0, `the tab that is left alone wrote ${alone} times, not ${Math.ceil(least)}`);
}

/** And nothing is told that is not so. */
function judgeWords({ entries, violated }) {
  for (const entry of entries) {
    const { what, at, error } = entry;
    if (what === "error") violated("error", at, `${entry.client}: ${entry.message}`);
    if (what === "stale") {
      const was = `dirty was false, but ${entry.known} had become ${entry.value}`;
      violated("stale", at, `${describe(entry)}: ${was}`);
    }
    const expected = ["TimeoutError", "AbortError", "StoreError"].includes(error);
    if (what === "failed" && !expected) {
      violated("error", at, `${describe(entry)}: ${error}: ${entry.message}`);
    }
  }
}

/** What a run came to: numbers, and what was violated, each in words. */
export function judge(run) {
  const { entries, rows } = run;
  const violations = [];
  const { clients, requests } = sortOut(entries);
  const leases = requests.filter(({ got }) => got);
  const stalls = entries.filter(({ what }) => what === "stall");
  const violated = (kind, at, text) => violations.push({ kind, at, text });
  const log = { ...run, clients, requests, leases, stalls, violated, ...running(clients) };

  judgeUpdates(log);
  judgeTokens(log);
  for (const name of new Set(leases.map(({ name }) => name))) {
    const ofName = leases.filter((lease) => lease.name === name).sort((a, b) => a.got.at - b.got.at);
    judgeOverlaps(ofName, log);
    judgeSteps(ofName, log);
  }
  const longest = judgeWaits(log);
  judgeFinal(log);
  judgeProgress(log);
  judgeWords(log);

  return {
    sections: count(rows.map(({ client }) => client.split(" ").at(-2))),
    requests: count(requests.map(({ settled }) => settled?.code ?? settled?.what ?? "none")),
    told: count(entries.filter(({ what }) => what === "lost").map(({ code }) => code)),
    refused: entries.filter(({ what }) => what === "refused").length,
    restored: entries.filter(({ what }) => what === "restored").length,
    longest,
    stalls: stalls.map(({ database, from, to }) => ({ database, at: from, ms: Math.round(to - from) })),
    violations: violations.sort(by("at")),
  };
}

const describe = (entry) =>
  entry === undefined
    ? "nobody"
    : `${entry.client}: ${entry.what ?? "row"} ${entry.name} ${entry.token ?? ""}(request ${entry.request})`;

const list = (counts) => Object.entries(counts).map(([key, n]) => `${n} ${key}`).join(", ") || "none";

/** A run, in some lines. */
export function summary({ seed, ms, events, verdict }) {
  const { sections, requests, told, refused, restored, longest, stalls, violations } = verdict;
  const shown = violations.slice(0, 20).map(({ kind, text }) => `  ${kind}: ${text}`);
  if (violations.length > shown.length) shown.push(`  … and ${violations.length - shown.length} more`);
  return [
    `seed ${seed}, ${ms / 60_000} min`,
    `events: ${list(count(events.map(({ action }) => action)))}`,
    `contexts that came back from the cache: ${restored}`,
    `sections: ${list(sections)}; ${refused} refused for their token`,
    `requests: ${list(requests)}; the longest wait that ended well ${Math.round(longest)} ms`,
    `leases lost: ${list(told)}`,
    `stalls: ${stalls.map(({ database, ms }) => `${database} ${ms} ms`).join(", ") || "none"}`,
    `violations: ${list(count(violations.map(({ kind }) => kind)))}`,
    ...shown,
  ].join("\n");
}
