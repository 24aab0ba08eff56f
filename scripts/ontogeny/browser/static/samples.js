// Samples: tokens shaded by what happens at one site, with the value under the pointer or the cursor.

import { write } from "./numbers.js";

const UNREAD = -128;
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;

/** Let samples be widened, and walked through by arrows. */
export function setUpSamples() {
  document.body.append(tip);
  for (const sample of document.querySelectorAll(".sample")) {
    const more = sample.querySelector(".more");
    if (more) setUpWidening(sample, more);
    setUpWalking(sample.querySelector(".tokens"));
  }
}

function setUpWidening(sample, more) {
  const text = more.textContent;
  more.hidden = false;
  const turn = () => {
    const open = sample.classList.toggle("open");
    more.setAttribute("aria-expanded", open);
    more.textContent = open ? "fewer tokens" : text;
  };
  more.addEventListener("click", turn);
  sample.querySelector(".tokens").addEventListener("click", () => { if (!getSelection().toString()) turn(); });
}

function setUpWalking(line) {
  const shown = () => [...line.children].filter((token) => token.offsetParent);
  const point = (token) => {
    for (const other of line.children) other.removeAttribute("tabindex");
    token.tabIndex = -1;
    token.focus();
  };
  line.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const tokens = shown();
    const at = tokens.indexOf(document.activeElement);
    const start = tokens.findIndex((token) => token.classList.contains("here"));
    const to = { ArrowRight: at < 0 ? start : at + 1, ArrowLeft: at < 0 ? start : at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (to !== undefined) { point(tokens[Math.min(Math.max(to, 0), tokens.length - 1)]); event.preventDefault(); }
    if (event.key === "Enter") line.click();
    if (event.key === "Escape") line.focus();
  });
  line.addEventListener("focusin", (event) => { if (event.target !== line) showTip(event.target); });
  line.addEventListener("focusout", () => { tip.hidden = true; });
  line.addEventListener("pointerover", (event) => { if (event.target !== line) showTip(event.target); });
  line.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function showTip(token) {
  tip.textContent = token.dataset.value ?? token.title;
  tip.hidden = false;
  const box = token.getBoundingClientRect();
  const left = Math.min(Math.max(box.left + box.width / 2 - tip.offsetWidth / 2, 4), document.documentElement.clientWidth - tip.offsetWidth - 4);
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${box.top - tip.offsetHeight - 4 + scrollY}px`;
}

/** Unpack the readings of a sample once: signed bytes (sites, tokens). */
function readings(sample) {
  sample.bytes ??= Int8Array.from(atob(sample.readings), (sign) => sign.charCodeAt(0));
  return sample.bytes;
}

/** The largest reading of all samples and sites, by magnitude, so that shades can be compared. */
function largestReading(data) {
  data.largestReading ??= Math.max(1e-12, ...data.samples.map(largestOf));
  return data.largestReading;
}

function largestOf(sample) {
  return sample.scale * readings(sample).reduce((most, byte) => (byte === UNREAD ? most : Math.max(most, Math.abs(byte))), 0);
}

/** The value of a token at a site, null where it was not read. */
function valueAt(data, sample, token, mode, site) {
  if (mode === "read") {
    const byte = readings(sample)[site * sample.activations.length + token];
    return byte === undefined || byte === UNREAD ? null : byte * sample.scale;
  }
  const activation = sample.activations[token];
  return activation === null ? null : activation * (mode === "written" ? (sample.normalised ?? data.normalised)[site] : 1);
}

/** Shade all samples by what happens at a site. */
export function shade(data, mode, site) {
  // On a feature's page all samples share a shade; features of a typed text have one each.
  const mostOf = (sample) => (mode === "read" ? (sample.largest ? largestOf(sample) : largestReading(data)) : sample.largest ?? data.largest);
  for (const line of document.querySelectorAll(".sample")) {
    const sample = data.samples[line.dataset.sample];
    const most = mostOf(sample);
    [...line.querySelector(".tokens").children].forEach((token, number) => {
      const value = valueAt(data, sample, number, mode, site);
      token.style.setProperty("--a", value === null || !most ? 0 : Math.min(Math.abs(value) / most, 1).toFixed(3));
      token.classList.toggle("against", value !== null && value < 0);
      token.classList.toggle("unread", value === null);
      token.dataset.value = value === null ? "not read" : write(value);
      token.removeAttribute("title");
      token.setAttribute("aria-label", `${token.textContent}, ${token.dataset.value}`);
    });
  }
  const scale = document.querySelector(".scale");
  if (!scale) return;
  const most = mode === "read" ? largestReading(data) : data.largest;
  scale.classList.toggle("signed", mode === "read");
  scale.querySelector(".low").textContent = mode === "read" ? write(-most) : "0";
  scale.querySelector(".high").textContent = write(most);
}
