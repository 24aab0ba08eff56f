// Every feature as a point; a click opens it.

import { colour, CONFIG, layout } from "./charts.js";

const holder = document.getElementById("data");
const data = JSON.parse(holder.textContent);
const chart = document.querySelector("[data-chart=scatter]");

function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  return new Kind(bytes.buffer);
}

const features = unpack(data.features, Int32Array);
const classes = data.classes.length ? unpack(data.class, Int8Array) : null;
const [x, y] = [data.x, data.y].map((axis) => ({ ...axis, values: unpack(axis.values, Float32Array), places: unpack(axis.places, Float32Array) }));
const write = (value) => Number(value.toPrecision(3)).toString().replace("-", "\u2212");

/** Points of one class, or of none. */
function trace(name, ink, chosen) {
  return {
    type: "scattergl", mode: "markers", name, x: chosen.map((n) => x.places[n]), y: chosen.map((n) => y.places[n]),
    customdata: chosen.map((n) => features[n]),
    text: chosen.map((n) => `feature ${features[n]}<br>${x.title}: ${write(x.values[n])}<br>${y.title}: ${write(y.values[n])}`),
    hovertemplate: `%{text}<extra>${name}</extra>`,
    marker: { color: ink, size: features.length > 5000 ? 3 : 5, opacity: features.length > 20000 ? 0.35 : 0.6 },
  };
}

/** Powers of ten between the smallest and the largest place, and 2 and 5 between them where there are few. */
function decades(axis) {
  let low = Infinity, high = -Infinity;
  for (const place of axis.places) { low = Math.min(low, place); high = Math.max(high, place); }
  const factors = high - low < 2 ? [1, 2, 5] : [1];
  const values = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) for (const factor of factors) values.push(factor * 10 ** power);
  return values.filter((value) => Math.log10(value) >= low - 0.05 && Math.log10(value) <= high + 0.05);
}

function axisLayout(axis) {
  const title = { title: { text: axis.title, standoff: 8 }, fixedrange: false };
  if (axis.kind === "steps") return { ...title, tickvals: axis.ticks.map(([at]) => at), ticktext: axis.ticks.map(([, text]) => text) };
  if (axis.kind === "log") {
    const values = decades(axis);
    return { ...title, tickvals: values.map(Math.log10), ticktext: values.map((value) => (value < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(2))))) };
  }
  return title;
}

function draw() {
  const every = Array.from(features.keys());
  const traces = classes
    ? [...data.classes.map((name, number) => [name, colour(name), every.filter((n) => classes[n] === number)]), ["no class", colour("soft"), every.filter((n) => classes[n] < 0)]]
    : [["", "#0072B2", every]];
  Plotly.react(chart, traces.filter(([, , chosen]) => chosen.length).map((one) => trace(...one)), layout({
    xaxis: axisLayout(x), yaxis: axisLayout(y), dragmode: "zoom", hovermode: "closest", margin: { l: 56, r: 10, t: 28, b: 44 },
    showlegend: Boolean(classes), legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, itemsizing: "constant" },
  }), CONFIG);
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
chart.on("plotly_click", (event) => {
  location.href = holder.dataset.feature.replace(/0(?=(\.html)?$)/, event.points[0].customdata);
});
for (const select of document.querySelectorAll(".axes select")) select.addEventListener("change", () => select.form.requestSubmit());
