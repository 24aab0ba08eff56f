// Charts of a feature, by plotly.js, in the colours of the page.

export const OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C"];
export const CONFIG = { displayModeBar: false, responsive: true };
const place = (name) => document.querySelector(`[data-chart=${name}]`);
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function layout(more = {}) {
  const { xaxis, yaxis, ...rest } = more;
  const axis = { color: colour("soft"), gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"), fixedrange: true, automargin: true };
  return {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false, dragmode: false,
    margin: { l: 40, r: 10, t: 8, b: 38 },
    font: { family: "system-ui, 'DejaVu Sans', sans-serif", size: 11, color: colour("ink") },
    hoverlabel: { bgcolor: colour("ink"), font: { color: colour("ground") }, bordercolor: colour("ink") },
    xaxis: { ...axis, showgrid: false, zeroline: false, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...rest,
  };
}

/** Where sites stand, and what is written there: places of a line, or numbers of bars. */
export function siteAxis(data, isLine) {
  const { positions, ticks, names, title } = data.axis;
  if (!isLine) return { title: { text: title, standoff: 6 }, tickvals: names.map((_, n) => n), ticktext: names };
  return {
    title: { text: title, standoff: 6 }, range: [-0.04, 1.04],
    tickvals: ticks.map(([x]) => x), ticktext: ticks.map(([, text]) => text), tickangle: data.axis.kind === "checkpoints" ? 0 : "auto",
  };
}

/** The line of one value a site; what leads over the break after step 0 is dotted. */
export function siteLine(data, values, name, lineColour, isSmall = false) {
  const x = data.axis.positions;
  const look = { color: lineColour, width: 2 };
  const start = data.axis.gap === null ? 0 : 1;
  const trace = {
    x, y: values, name, type: "scatter", mode: "markers", marker: { color: lineColour, size: isSmall ? 5 : 7 },
    text: data.axis.names, hovertemplate: `%{text}: %{y:.3g}<extra>${isSmall ? name : ""}</extra>`,
  };
  const line = { x: x.slice(start), y: values.slice(start), type: "scatter", mode: "lines", line: look, hoverinfo: "skip" };
  const lead = { x: x.slice(0, 2), y: values.slice(0, 2), type: "scatter", mode: "lines", line: { ...look, width: 1, dash: "dot" }, hoverinfo: "skip" };
  return [...(start ? [lead] : []), line, trace];
}

export function isLine(data) {
  return data.axis.kind === "checkpoints" || data.axis.kind === "layers";
}

function horizontal(y, dash) {
  return { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour("soft"), width: 1, dash } };
}

export function breakAfterZero(data) {
  const gap = data.axis.gap;
  if (gap === null) return [];
  return [-0.008, 0.008].map((shift) => ({
    type: "line", x0: gap + shift - 0.006, x1: gap + shift + 0.006, yref: "paper", y0: -0.03, y1: 0.03, line: { color: colour("soft"), width: 1 },
  }));
}

function drawNorms(data, chosen) {
  const line = isLine(data);
  const ink = data.class ? colour(data.class) : OKABE_ITO[0];
  const traces = line ? siteLine(data, data.normalised, "norm", ink)
    : [{ type: "bar", x: data.normalised.map((_, n) => n), y: data.normalised, text: data.axis.names, textposition: "none", hovertemplate: "%{text}: %{y:.3g}<extra></extra>", marker: { color: ink }, width: 0.6 }];
  const chart = place("norms");
  Plotly.react(chart, traces, layout({ xaxis: siteAxis(data, line), yaxis: { range: [-0.03, 1.06], title: { text: "Normalised norm", standoff: 6 }, tickvals: [0, 0.25, 0.5, 0.75, 1] } }), CONFIG);
  chart.removeAllListeners?.("plotly_click");
  if (chosen) chart.on("plotly_click", (event) => chosen(event.points[0].pointNumber));
}

function diverging() {
  return [[0, OKABE_ITO[0]], [0.5, colour("raised")], [1, "#D55E00"]];
}

function drawRotation(data) {
  const { names, short } = data.axis;
  const every = Math.ceil(names.length / 12);
  const numbers = names.map((_, n) => n);
  const ticks = { tickvals: numbers.filter((n) => n % every === 0), ticktext: short.filter((_, n) => n % every === 0), showgrid: false, zeroline: false, ticks: "" };
  const text = data.rotation.map((row, i) => row.map((_, j) => `${names[j]} and ${names[i]}`));
  Plotly.react(place("rotation"), [{
    type: "heatmap", z: data.rotation, x: numbers, y: numbers, text, zmin: -1, zmax: 1, colorscale: diverging(), xgap: 1, ygap: 1,
    hovertemplate: "%{text}: %{z:.2f}<extra></extra>", colorbar: { thickness: 8, len: 1, outlinewidth: 0, tickvals: [-1, 0, 1], xpad: 4 },
  }], layout({ margin: { l: 44, r: 4, t: 8, b: 40 }, xaxis: { ...ticks, title: { text: data.axis.title, standoff: 4 } }, yaxis: { ...ticks } }), CONFIG);
}

function drawHistogram(data) {
  const width = data.largest / data.histogram.length;
  const x = data.histogram.map((_, n) => (n + 0.5) * width);
  Plotly.react(place("histogram"), [{
    type: "bar", x, y: data.histogram, width, marker: { color: colour("fire") },
    customdata: x.map((middle) => [middle - width / 2, middle + width / 2]),
    hovertemplate: "%{customdata[0]:.3g} to %{customdata[1]:.3g}: %{y} rows<extra></extra>",
  }], layout({ bargap: 0, margin: { l: 40, r: 8, t: 4, b: 34 }, xaxis: { title: { text: "Activation", standoff: 4 }, range: [0, data.largest] }, yaxis: { type: "log", dtick: 1, range: [-0.1, Math.log10(Math.max(...data.histogram, 1)) + 0.15], title: { text: "Rows", standoff: 4 } } }), CONFIG);
}

function drawAttributions(data) {
  const line = isLine(data);
  const several = data.attributions.length > 1;
  const traces = data.attributions.flatMap(({ label, values }, n) => {
    const ink = OKABE_ITO[n % OKABE_ITO.length];
    if (!line) return [{ type: "bar", name: label, x: values.map((_, k) => k), y: values, text: data.axis.names, textposition: "none", hovertemplate: `%{text}: %{y:.3g}<extra>${label}</extra>`, marker: { color: ink } }];
    const drawn = siteLine(data, values, label, ink, true);
    drawn.forEach((trace, k) => { trace.showlegend = k === drawn.length - 1; });
    return drawn;
  });
  Plotly.react(place("attributions"), traces, layout({
    xaxis: siteAxis(data, line), yaxis: { title: { text: "Logits", standoff: 4 } }, shapes: [horizontal(0, "solid")],
    showlegend: several, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } }, margin: { l: 44, r: 10, t: several ? 28 : 8, b: 38 },
  }), CONFIG);
}

const DRAW = { norms: drawNorms, rotation: drawRotation, histogram: drawHistogram, attributions: drawAttributions };

/** Draw every chart of the page, and again when the reader changes from light to dark. */
export function drawCharts(data, chosen) {
  const draw = () => { for (const [name, one] of Object.entries(DRAW)) if (place(name)) one(data, chosen); };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { draw(); markSite(data, data.marked); });
}

/** Mark a site in the charts over sites. */
export function markSite(data, site) {
  data.marked = site;
  if (place("norms")) {
    const at = isLine(data) ? data.axis.positions[site] : site;
    const here = { type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: colour("ink"), width: 1 }, layer: "below" };
    Plotly.relayout(place("norms"), { shapes: [horizontal(data.tau, "dash"), ...breakAfterZero(data), here] });
  }
  if (place("rotation")) {
    const edge = { type: "rect", line: { color: colour("ink"), width: 1.2 }, fillcolor: "transparent" };
    const whole = [-0.5, data.rotation.length - 0.5];
    Plotly.relayout(place("rotation"), { shapes: [
      { ...edge, x0: site - 0.5, x1: site + 0.5, y0: whole[0], y1: whole[1] }, { ...edge, y0: site - 0.5, y1: site + 0.5, x0: whole[0], x1: whole[1] }] });
  }
}
