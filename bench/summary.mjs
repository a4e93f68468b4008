// What the rounds add up to: medians, p95s, ratios within each round, and the targets.
import { BARE, BEFORE, HOP, IDLE, LOCKS, NATIVE, PEERS, SUBJECT } from "./measure.mjs";

/** The value below which the share `q` of the samples lies; NaN for none. */
export function quantile(samples, q) {
  const sorted = [...samples].sort((a, b) => a - b);
  if (sorted.length === 0) return NaN;
  const at = (sorted.length - 1) * q;
  const [low, high] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  return low === high ? low : low + (high - low) * (at - Math.floor(at));
}

const median = (samples) => quantile(samples, 0.5);

/** Over the rounds: the median, and from where to where it went. */
function spread(values) {
  const known = values.filter((value) => !Number.isNaN(value));
  return { median: median(known), least: Math.min(...known), most: Math.max(...known), rounds: known.length };
}

const each = (names, of) => Object.fromEntries(names.map((name) => [name, of(name)]));

const failures = (batches) => batches.map(({ failed }) => failed).filter(Boolean);

/** A scenario that timed single operations. */
function timed(rounds, scenario, contenders) {
  const batches = (name) => rounds.map((round) => round[scenario][name]);
  return each(contenders, (name) => {
    const times = batches(name).flatMap(({ times }) => times);
    return {
      p50: median(times),
      p95: quantile(times, 0.95),
      samples: times.length,
      early: batches(name).reduce((sum, { early = 0 }) => sum + early, 0),
      perRound: spread(batches(name).map(({ times }) => median(times))),
      failures: failures(batches(name)),
    };
  });
}

/** The p50 of one as a multiple of another's, in each round by itself. */
const ratio = (rounds, scenario, name, other) =>
  spread(rounds.map((round) => median(round[scenario][name].times) / median(round[scenario][other].times)));

/** The same transaction with and without the fence, by turns. */
function fenced(rounds) {
  const batches = rounds.map((round) => round.fenced[SUBJECT]);
  const of = (key) => {
    const times = batches.flatMap((batch) => batch[key]);
    return { p50: median(times), p95: quantile(times, 0.95), samples: times.length, perRound: spread(batches.map((batch) => median(batch[key]))) };
  };
  return {
    fenced: of("times"),
    plain: of("plain"),
    toPlain: spread(batches.map(({ times, plain }) => median(times) / median(plain))),
    failures: failures(batches),
  };
}

function contended(rounds, count) {
  const batches = (name) => rounds.map((round) => round.contention[name][count]);
  return each(LOCKS, (name) => ({
    perSecond: spread(batches(name).map(({ perSecond }) => perSecond)),
    toNative: spread(batches(name).map(({ perSecond }, n) => perSecond / batches(NATIVE)[n].perSecond)),
    mostToLeast: spread(batches(name).map(({ mostToLeast }) => mostToLeast)),
    longestMs: spread(batches(name).map(({ longest }) => longest)),
    longestInRounds: spread(batches(name).map(({ longestInRounds }) => longestInRounds)),
    sections: batches(name).flatMap(({ sections }) => sections).reduce((sum, n) => sum + n, 0),
    lost: batches(name).reduce((sum, { lost }) => sum + lost, 0),
    errors: batches(name).flatMap(({ errors = [] }) => errors).length,
    failures: failures(batches(name)),
  }));
}

function idled(rounds) {
  return each([...LOCKS, IDLE], (name) => {
    const batches = rounds.map(({ idle }) => idle[name]);
    return {
      writesPerSecond: spread(batches.map(({ writesPerSecond }) => writesPerSecond)),
      taskMsPerSecond: spread(batches.map(({ taskMsPerSecond }) => taskMsPerSecond)),
      toIdle: spread(rounds.map(({ idle }) => idle[name].taskMsPerSecond / idle[IDLE].taskMsPerSecond)),
      failures: failures(batches),
    };
  });
}

/** The other checkout and this one, by turns in each round: what each took, and the ratio. */
function beforeAfter(rounds) {
  if (!rounds[0].again[BEFORE]) return undefined;
  const list = [];
  const compare = (what, unit, of) => {
    const [before, after] = [BEFORE, SUBJECT].map((name) => spread(rounds.map((round) => of(round, name))));
    list.push({ what, unit, before, after, ratio: spread(rounds.map((round) => of(round, SUBJECT) / of(round, BEFORE))) });
  };
  for (const scenario of ["handOver", "again", "cold", "fenced"]) {
    compare(scenario === "handOver" ? "hand-over" : scenario, "ms", (round, name) => median(round[scenario][name].times));
  }
  for (const count of Object.keys(rounds[0].contention[SUBJECT])) {
    compare(`sections of ${count} tabs`, "/s", (round, name) => round.contention[name][count].perSecond);
  }
  return list;
}

/** Many names, many calls, many tabs, of this package and of the other checkout. */
function crowded(rounds) {
  return each([SUBJECT, BEFORE].filter((name) => rounds[0].many[name]), (name) => {
    const of = (what) => spread(rounds.map((round) => what(round.many[name])));
    const sum = (what) => rounds.reduce((sum, round) => sum + what(round.many[name]), 0);
    const held = each(Object.keys(rounds[0].many[name].held), (count) => ({
      writesPerSecond: of(({ held }) => held[count].writesPerSecond),
      transactionsPerSecond: of(({ held }) => held[count].transactionsPerSecond),
      taskMsPerSecond: of(({ held }) => held[count].taskMsPerSecond),
      lost: sum(({ held }) => held[count].lost),
    }));
    return {
      held,
      handedOver: { ms: of(({ handedOver }) => handedOver.ms), lost: sum(({ handedOver }) => handedOver.lost) },
      calls: {
        ms: of(({ calls }) => calls.ms),
        otherMs: of(({ calls }) => calls.otherMs),
        sections: sum(({ calls }) => calls.sections),
        overlaps: sum(({ calls }) => calls.overlaps),
        failures: failures(rounds.map((round) => round.many[name].calls)),
      },
      waiting: {
        writesPerSecond: of(({ waiting }) => waiting.writesPerSecond),
        transactionsPerSecond: of(({ waiting }) => waiting.transactionsPerSecond),
        taskMsPerSecond: of(({ waiting }) => waiting.holderTaskMsPerSecond),
        lost: sum(({ waiting }) => waiting.lost),
      },
    };
  });
}

/** What must be reached. `value` is a median over the rounds; `native`: the same of `navigator.locks`. */
function targets({ rounds, fenced, contention, idle, many, ratios }) {
  const list = [];
  const target = (what, { median, least, most }, most_, native) =>
    list.push({ what, value: median, least, most, must: `≤ ${most_}`, met: median <= most_, ...(native && { native: native.median }) });
  target(`hand-over p50 / that of ${NATIVE}`, ratios.handOver, 1);
  for (const peer of PEERS) target(`hand-over p50 / that of ${peer}`, ratio(rounds, "handOver", SUBJECT, peer), 1);
  target(`again p50 / that of ${NATIVE}`, ratios.again, 0.2);
  target("cold p50 / that of a bare transaction", ratios.cold, 1.5, ratio(rounds, "cold", NATIVE, BARE));
  target("fenced transaction p50 / that of the same one unfenced", fenced.toPlain, 1.3);
  for (const [count, of] of Object.entries(contention)) {
    const { toNative, mostToLeast, longestInRounds } = of[SUBJECT];
    const { median, least, most } = toNative;
    list.push({ what: `${count} tabs: sections / those of ${NATIVE}`, value: median, least, most, must: "≥ 0.9", met: median >= 0.9 });
    target(`${count} tabs: most / least sections of a tab`, mostToLeast, 1.3, of[NATIVE].mostToLeast);
    target(`${count} tabs: longest wait / mean round`, longestInRounds, 3, of[NATIVE].longestInRounds);
    list.push({ what: `${count} tabs: lost updates`, value: of[SUBJECT].lost, least: 0, most: of[SUBJECT].lost, must: "= 0", met: of[SUBJECT].lost === 0, native: of[NATIVE].lost });
  }
  target("idle: store writes a second", idle[SUBJECT].writesPerSecond, 2, idle[NATIVE].writesPerSecond);
  target("idle: main thread / that of an idle page", idle[SUBJECT].toIdle, 2, idle[NATIVE].toIdle);
  const { handedOver, calls, waiting } = many[SUBJECT];
  target("many names held and wanted: all handed over, in s", scaled(handedOver.ms, 0.001), 5);
  target("calls at once in one tab, another waits, in s", scaled(calls.ms, 0.001), 10);
  target("one holder and its waiters: store writes a second, of all", waiting.writesPerSecond, 2);
  return list;
}

const scaled = ({ median, least, most }, by) => ({ median: median * by, least: least * by, most: most * by });

export function summarise({ rounds }) {
  const hops = rounds.flatMap(({ handOver }) => Object.values(handOver));
  const summary = {
    handOver: timed(rounds, "handOver", [...LOCKS, HOP]),
    again: timed(rounds, "again", [...LOCKS, BARE]),
    cold: timed(rounds, "cold", [...LOCKS, BARE]),
    fenced: fenced(rounds),
    contention: each(Object.keys(rounds[0].contention[SUBJECT]), (count) => contended(rounds, count)),
    idle: idled(rounds),
    many: crowded(rounds),
    beforeAfter: beforeAfter(rounds),
    ratios: {
      handOver: ratio(rounds, "handOver", SUBJECT, NATIVE),
      again: ratio(rounds, "again", SUBJECT, NATIVE),
      cold: ratio(rounds, "cold", SUBJECT, BARE),
    },
    clock: {
      skew: Math.max(...hops.map(({ skew }) => Math.abs(skew)).filter((skew) => !Number.isNaN(skew))),
      rtt: median(hops.map(({ rtt }) => rtt).filter((rtt) => !Number.isNaN(rtt))),
    },
  };
  return { ...summary, targets: targets({ rounds, ...summary }) };
}
