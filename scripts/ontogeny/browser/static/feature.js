// The page of a feature: one site at a time, in charts, samples and promoted tokens.

import { drawCharts, markSite } from "./charts.js";
import { send } from "./keys.js";
import { write } from "./numbers.js";
import { setUpSamples, shade } from "./samples.js";
import { chosenSite, nameSite, setUpSites } from "./sites.js";

const data = JSON.parse(document.getElementById("data").textContent);

/** Show what the feature does at a site. */
function show() {
  const { site, mode } = chosenSite();
  nameSite(data.axis.names);
  shade(data, mode, site);
  showPromotions(site);
  markSite(data, site);
}

function showPromotions(site) {
  if (!data.promotions.length) return;
  const where = document.getElementById("promotions-site");
  if (where) where.textContent = data.axis.names[site];
  for (const table of document.querySelectorAll("[data-bars]")) {
    const pairs = data.promotions[site][table.dataset.bars];
    const most = Math.max(...pairs.map(([, logit]) => Math.abs(logit)), 1e-12);
    table.tBodies[0].replaceChildren(...pairs.map(([text, logit]) => {
      const row = document.createElement("tr");
      const token = row.appendChild(document.createElement("th"));
      token.scope = "row";
      const word = token.appendChild(document.createElement("span"));
      word.className = "word";
      word.textContent = text;
      const cell = row.appendChild(document.createElement("td"));
      cell.className = "n";
      cell.style.setProperty("--w", (Math.abs(logit) / most).toFixed(3));
      cell.textContent = write(logit);
      return row;
    }));
  }
}

function setUpNotes() {
  const form = document.querySelector("form.notes");
  if (!form) return;
  const state = form.querySelector(".state");
  const written = () => ["interpretation", "tags", "note"].map((name) => form.elements[name].value).join("\n\n");
  let stored = written();
  const isDirty = () => written() !== stored;
  const tell = (text, bad = false) => { state.textContent = text; state.classList.toggle("bad", bad); };
  const save = async () => {
    tell("Saving…");
    try {
      const sent = written();
      const found = await send(form);
      stored = sent;
      tell(isDirty() ? "Not saved yet" : "Saved");
      document.getElementById("reading").textContent = found.interpretation
        || document.querySelector("#notes blockquote p")?.textContent || "";
    } catch (error) {
      tell(`Not saved: ${error.message}`, true);
    }
  };
  form.addEventListener("input", () => tell(isDirty() ? "Not saved yet" : ""));
  form.addEventListener("change", save);
  form.addEventListener("submit", (event) => { event.preventDefault(); save(); });
  window.addEventListener("beforeunload", (event) => { if (isDirty()) event.preventDefault(); });
}

setUpSamples();
const chooseSite = setUpSites(data.axis.noun, show);
setUpNotes();
drawCharts(data, chooseSite);
show();
document.documentElement.dataset.shown = "";
