// The list of a copy without a server: filters, order and words, answered from the files beside it.

import { findFeatures, parameters, readList } from "./exported.js";

const form = document.querySelector("form.filters");
const table = document.querySelector("table.features");
const asked = parameters(location.search);
const list = await readList();
const found = await findFeatures(list, asked);
const size = Number(asked.get("size") ?? 50);
const pages = Math.max(Math.ceil(found.length / size), 1);
const page = Math.min(Math.max(Number(asked.get("page") ?? 1), 1), pages);
const shown = found.slice((page - 1) * size, page * size);

/** The address of this list with some parameters changed; those that are null go. */
function address(changes) {
  const other = new URLSearchParams(asked);
  for (const [name, value] of Object.entries(changes)) if (value === null) other.delete(name); else other.set(name, value);
  const text = other.toString();
  return `index.html${text ? `?${text}` : ""}`;
}

async function showRows() {
  const files = new Map();
  for (const feature of shown) {
    const number = Math.floor(feature / list.rows);
    if (!files.has(number)) files.set(number, fetch(`rows-${number}.json`).then((answer) => answer.json()));
  }
  const body = table.tBodies[0];
  const rows = await Promise.all(shown.map(async (feature) => (await files.get(Math.floor(feature / list.rows)))[feature % list.rows]));
  // Made by the same template, which escapes every text, when the copy was written.
  body.innerHTML = rows.join("");
  for (const link of body.querySelectorAll("th a")) link.search = asked.toString();
}

function showCount() {
  const count = document.querySelector(".count");
  const number = document.createElement("b");
  number.textContent = found.length.toLocaleString("en");
  count.replaceChildren(number, ` ${found.length === 1 ? "feature" : "features"} `);
  if (found.length) {
    const first = (page - 1) * size + 1;
    const range = document.createElement("span");
    range.className = "soft";
    range.textContent = `· ${first.toLocaleString("en")} to ${(first + shown.length - 1).toLocaleString("en")}`;
    const random = document.createElement("a");
    random.className = "button";
    random.dataset.random = "";
    random.textContent = "Random feature";
    random.href = `${found[Math.floor(Math.random() * found.length)]}.html?${asked}`;
    count.append(range, random);
  }
}

function showPages() {
  document.querySelector("nav.pages")?.remove();
  if (pages < 2) return;
  const nav = document.createElement("nav");
  nav.className = "pages";
  nav.setAttribute("aria-label", "Pages");
  const link = (text, rel, to) => {
    const one = document.createElement("a");
    Object.assign(one, { className: "button", rel, href: address({ page: to }), textContent: text });
    return one;
  };
  const where = document.createElement("span");
  where.textContent = `Page ${page.toLocaleString("en")} of ${pages.toLocaleString("en")}`;
  if (page > 1) nav.append(link("← Previous", "prev", page - 1));
  nav.append(where);
  if (page < pages) nav.append(link("Next →", "next", page + 1));
  table.after(nav);
}

/** Let headings keep the filters, and turn the order where they lead to the present one. */
function showHeadings() {
  const order = asked.get("sort") ?? "feature";
  for (const heading of table.tHead.querySelectorAll("th a")) {
    const own = new URLSearchParams(heading.search);
    const name = own.get("sort") ?? "feature";
    const here = name === order;
    const down = here ? !asked.has("desc") : own.has("desc") && name !== "feature";
    heading.href = address({ sort: name === "feature" ? null : name, desc: down ? "1" : null, page: null });
    heading.querySelector("[aria-hidden]")?.remove();
    heading.parentElement.removeAttribute("aria-sort");
    if (here) {
      heading.parentElement.setAttribute("aria-sort", asked.has("desc") ? "descending" : "ascending");
      const sign = document.createElement("span");
      sign.setAttribute("aria-hidden", "true");
      sign.textContent = asked.has("desc") ? " ↓" : " ↑";
      heading.append(sign);
    }
  }
}

/** Show in the form what was asked for. */
function fillForm() {
  for (const field of form.elements) {
    if (!field.name) continue;
    const values = asked.getAll(field.name);
    if (field.type === "checkbox") field.checked = values.includes(field.value);
    else if (values.length) field.value = values[0];
  }
  if ([...asked.keys()].some((name) => /^(min|max)\.|^(bookmarked|tag|dead)$/.test(name))) form.querySelector("details").open = true;
}

function keepAddressShort() {
  const standard = { sort: "feature", size: "50", dead: "hide" };
  for (const field of form.elements) if (field.name && (field.value === "" || field.value === standard[field.name])) field.disabled = true;
}

fillForm();
showCount();
showHeadings();
await showRows();
showPages();
document.documentElement.dataset.ready = "";
form.addEventListener("submit", keepAddressShort);
form.addEventListener("change", (event) => { if (event.target.matches("select, [type=checkbox]")) form.requestSubmit(); });
window.addEventListener("pageshow", () => { for (const field of form.elements) field.disabled = false; });
