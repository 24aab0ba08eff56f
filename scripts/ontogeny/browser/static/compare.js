// Two runs side by side.

import { CONFIG, layout, OKABE_ITO } from "./charts.js";

const INKS = [OKABE_ITO[0], OKABE_ITO[5]];
const holder = document.getElementById("data");
const data = holder ? JSON.parse(holder.textContent) : null;
const place = (name) => document.querySelector(`[data-chart="${name}"]`);
const style = (n) => ({ name: data.runs[n], marker: { color: INKS[n], symbol: n ? "square" : "circle", size: 7 }, line: { color: INKS[n], width: 2, dash: n ? "dash" : "solid" } });

/** Training steps on a log axis with step 0 in a slot before the others. */
function stepPlaces(lines) {
  const steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const above = steps.filter((step) => step > 0);
  const [low, high] = [Math.log10(above[0] ?? 1), Math.log10(above.at(-1) ?? 10)];
  const slot = low - 0.15 * Math.max(high - low, 1 / 3);
  const at = (step) => (step > 0 ? Math.log10(step) : slot);
  const written = steps.includes(0) ? [0] : [];
  for (let power = Math.ceil(low); power <= high + 1e-9; power++) written.push(10 ** power);
  const shown = written.length > 2 ? written : steps;
  return { at, axis: { title: { text: "Training step", standoff: 6 }, tickvals: shown.map(at), ticktext: shown.map((step) => step.toLocaleString("en")) } };
}

function drawMetric(metric, number) {
  const overSteps = metric.lines.every((line) => line.kind === "checkpoints" || (line.kind === "one" && metric.lines.some((other) => other.kind === "checkpoints")));
  let axis = { title: { text: "" }, tickangle: "auto" };
  let where = (line) => line.names;
  if (overSteps) {
    const { at, axis: steps } = stepPlaces(metric.lines);
    axis = steps;
    where = (line) => line.steps.map(at);
  }
  const traces = metric.lines.map((line, n) => ({
    x: where(line), y: line.values, text: line.names, type: "scatter", mode: "lines+markers", ...style(n),
    hovertemplate: `%{text}: %{y:.3g}<extra>${data.runs[n]}</extra>`,
  }));
  Plotly.react(place(`metric-${number}`), traces, layout({ xaxis: axis, yaxis: { rangemode: "tozero" } }), CONFIG);
}

function drawDistribution(one, number) {
  const middles = one.edges.slice(1).map((edge, n) => (edge + one.edges[n]) / 2);
  const traces = one.counts.map((counts, n) => ({
    x: middles, y: counts, type: "scatter", mode: "lines", ...style(n), line: { ...style(n).line, shape: "hvh" },
    text: middles.map((at) => (10 ** at).toPrecision(2)), hovertemplate: `%{text}: %{y} features<extra>${data.runs[n]}</extra>`,
  }));
  const [low, high] = [one.edges[0], one.edges.at(-1)];
  const factors = high - low < 2 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) ticks.push(...factors.map((factor) => power + Math.log10(factor)).filter((at) => at >= low && at <= high));
  Plotly.react(place(`distribution-${number}`), traces, layout({
    xaxis: { title: { text: one.label, standoff: 6 }, tickvals: ticks, ticktext: ticks.map((power) => String(Number((10 ** power).toPrecision(2)))) },
    yaxis: { title: { text: "Features", standoff: 6 }, rangemode: "tozero" },
  }), CONFIG);
}

function drawClasses() {
  const traces = data.runs.map((name, n) => ({
    type: "bar", name, x: data.classes.map((one) => one.label), y: data.classes.map((one) => one.counts[n]), marker: { color: INKS[n] },
    hovertemplate: `%{x}: %{y}<extra>${name}</extra>`,
  }));
  Plotly.react(place("classes"), traces, layout({ barmode: "group", yaxis: { title: { text: "Features", standoff: 6 } } }), CONFIG);
}

function draw() {
  data.metrics.forEach(drawMetric);
  data.distributions.forEach(drawDistribution);
  if (place("classes")) drawClasses();
}

if (data) {
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
for (const select of document.querySelectorAll(".axes select")) select.addEventListener("change", () => select.form.requestSubmit());
