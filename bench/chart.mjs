// bench/results.svg: one card, drawn by hand, that reads in light and in dark.
import { BARE, HOP, LOCKS, NATIVE, SUBJECT } from "./measure.mjs";
import { digits } from "./report.mjs";

const WIDTH = 880;
const LEFT = 200;
const RIGHT = 110;
const ROW = 24;
const BAR = 7;
const PAD = 28;

const STYLE = `
  .card { fill: #ffffff; stroke: #d0d7de; }
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .sub, .tick { fill: #59636e; font-size: 12px; }
  .grid { stroke: #e4e8ec; }
  .peer { fill: #8c959f; stroke: #8c959f; }
  .native { fill: #1a7f37; stroke: #1a7f37; }
  .subject { fill: #0969da; stroke: #0969da; }
  .limit { fill: #ffffff; stroke: #8c959f; }
  .range { stroke-width: 3; stroke-linecap: round; opacity: 0.45; }
  text.subject { stroke: none; font-weight: 600; }
  text.limit { fill: #59636e; stroke: none; font-style: italic; }
  .lost { fill: #cf222e; font-weight: 600; }
  .s0 { opacity: 0.5; } .s1 { opacity: 0.75; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #151b23; stroke: #3d444d; }
    text { fill: #e6edf3; }
    .sub, .tick, text.limit { fill: #9198a1; }
    .grid { stroke: #2a313c; }
    .peer { fill: #848d97; stroke: #848d97; }
    .native { fill: #3fb950; stroke: #3fb950; }
    .subject { fill: #58a6ff; stroke: #58a6ff; }
    .limit { fill: #151b23; stroke: #9198a1; }
    .lost { fill: #ff7b72; }
  }`;

const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

function text(x, y, content, kind = "", anchor = "start") {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="${kind}" text-anchor="${anchor}">${escape(content)}</text>`;
}

const kind = (name) => (name === SUBJECT ? "subject" : name === NATIVE ? "native" : LOCKS.includes(name) ? "peer" : "limit");
const label = (name, y) => text(LEFT - 14, y + 4, name, name === SUBJECT ? "subject" : kind(name) === "limit" ? "limit" : "", "end");

/** A panel of p50 dots, each with a line to its p95, on a scale of powers of ten. */
function dots({ top, title, sub, scenario }) {
  const names = Object.keys(scenario).filter((name) => scenario[name].samples > 0);
  const values = names.flatMap((name) => [scenario[name].p50, scenario[name].p95]);
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.ceil(Math.log10(Math.max(...values)));
  const x = (value) => LEFT + ((Math.log10(value) - low) / (high - low)) * (WIDTH - LEFT - RIGHT - PAD);
  const parts = [text(PAD, top, title, "title"), text(PAD, top + 18, sub, "sub")];
  const first = top + 44;
  const bottom = first + names.length * ROW - 8;
  for (let power = low; power <= high; power++) {
    const at = x(10 ** power).toFixed(1);
    parts.push(`<line class="grid" x1="${at}" x2="${at}" y1="${first - 14}" y2="${bottom}"/>`);
    parts.push(text(Number(at), bottom + 14, `${10 ** power >= 1 ? 10 ** power : (10 ** power).toFixed(-power)} ms`, "tick", "middle"));
  }
  names.forEach((name, n) => {
    const { p50, p95 } = scenario[name];
    const y = first + n * ROW;
    parts.push(label(name, y));
    parts.push(`<line class="range ${kind(name)}" x1="${x(p50).toFixed(1)}" x2="${x(p95).toFixed(1)}" y1="${y}" y2="${y}"/>`);
    parts.push(`<circle class="${kind(name)}" cx="${x(p50).toFixed(1)}" cy="${y}" r="5.5" stroke-width="2"/>`);
    parts.push(text(WIDTH - PAD, y + 4, `${digits(p50)} ms`, name === SUBJECT ? "subject" : "", "end"));
  });
  return { svg: parts.join("\n"), height: bottom + 14 - top };
}

/** Sections a second, a bar for each number of tabs. */
function bars({ top, title, sub, contention }) {
  const sizes = Object.keys(contention);
  const most = Math.max(...sizes.flatMap((count) => LOCKS.map((name) => contention[count][name].perSecond.median)));
  const x = (value) => (value / most) * (WIDTH - LEFT - RIGHT - PAD - 60);
  const parts = [text(PAD, top, title, "title"), text(PAD, top + 18, sub, "sub")];
  const step = sizes.length * (BAR + 2) + 14;
  LOCKS.forEach((name, n) => {
    const y = top + 36 + n * step;
    parts.push(label(name, y + (step - 14) / 2));
    sizes.forEach((count, m) => {
      const width = Math.max(x(contention[count][name].perSecond.median), 1.5);
      parts.push(`<rect class="${kind(name)} s${m}" stroke="none" style="stroke:none" x="${LEFT}" y="${y + m * (BAR + 2)}" width="${width.toFixed(1)}" height="${BAR}" rx="2"/>`);
    });
    const numbers = sizes.map((count) => Math.round(contention[count][name].perSecond.median)).join(" / ");
    parts.push(text(WIDTH - PAD, y + (step - 14) / 2 + 4, numbers, name === SUBJECT ? "subject" : "", "end"));
    const lost = sizes.reduce((sum, count) => sum + contention[count][name].lost, 0);
    const longest = Math.max(...sizes.map((count) => x(contention[count][name].perSecond.median)));
    if (lost > 0) parts.push(text(LEFT + longest + 10, y + (step - 14) / 2 + 4, `${lost} update${lost === 1 ? "" : "s"} lost`, "lost"));
  });
  return { svg: parts.join("\n"), height: 36 + LOCKS.length * step - 10 };
}

export function chart(run) {
  const { handOver, again, cold, contention } = run.summary;
  const panels = [
    [dots, { title: "Hand-over between two tabs", sub: `dot: p50, line: to p95; limit: one ${HOP}`, scenario: handOver }],
    [dots, { title: "Acquire and release again, nobody waiting", sub: `in a loop; limit: one ${BARE}`, scenario: again }],
    [dots, { title: "Acquire and release, cold", sub: `after a pause of ${run.plan.cold.gap} ms; limit: one ${BARE}`, scenario: cold }],
    [bars, { title: "Sections a second under contention", sub: `from the top: ${Object.keys(contention).join(", ")} tabs increment one counter in IndexedDB; more is better`, contention }],
  ];
  let top = PAD + 12;
  const drawn = [];
  for (const [draw, panel] of panels) {
    const { svg, height } = draw({ top, ...panel });
    drawn.push(svg);
    top += height + 40;
  }
  const { machine, versions, rounds, date } = run;
  drawn.push(text(PAD, top - 10, `${date}, ${machine.cpu}, ${machine.cores} cores, ${versions.browser}, ${rounds} round${rounds === 1 ? "" : "s"}`, "sub"));
  const height = top + 8;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height.toFixed(0)}" width="${WIDTH}" height="${height.toFixed(0)}" role="img" aria-label="tab-lease and its peers, measured side by side">
<style>${STYLE}
</style>
<rect class="card" x="0.5" y="0.5" width="${WIDTH - 1}" height="${(height - 1).toFixed(0)}" rx="10"/>
${drawn.join("\n")}
</svg>
`;
}
