// Keys of every page, and marks that are changed without leaving it.

const dialog = document.getElementById("keys");
document.documentElement.classList.add("js");

for (const button of document.querySelectorAll("[data-keys]")) {
  button.hidden = false;
  button.addEventListener("click", () => dialog.showModal());
}

function isTyping(target) {
  return target.closest("input:not([type=checkbox]), select, textarea, [contenteditable], [role=group], dialog");
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
  return Boolean(link);
}

const KEYS = {
  "/": () => { const search = document.getElementById("search"); if (search) { search.focus(); search.select(); } return Boolean(search); },
  "?": () => { dialog.showModal(); return true; },
  ArrowLeft: () => follow("a[rel=prev]"),
  ArrowRight: () => follow("a[rel=next]"),
  b: () => follow(".title .star button"),
  r: () => follow("a[data-random]"),
  u: () => follow(".around a[data-up]"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isTyping(event.target)) return;
  if (KEYS[event.key]?.()) event.preventDefault();
});

/** Say something to those who do not see the page; to all where it is wrong. */
function say(text, isWrong = false) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.className = isWrong ? "wrong" : "unseen";
}

let last = Promise.resolve();

/** Send the fields of a form after all that was sent before, upon whose revision it builds; return what is stored now,
 * or throw what the server says is wrong. */
export function send(form) {
  const sent = last.then(() => post(form));
  last = sent.catch(() => {});
  return sent;
}

async function post(form) {
  const answer = await fetch(form.action, {
    method: "POST",
    body: new URLSearchParams(new FormData(form)),
    headers: { Accept: "application/json" },
  }).catch(() => { throw new Error("the server does not answer"); });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  const revisions = document.querySelectorAll(`form[action="${CSS.escape(form.getAttribute("action"))}"] [name=revision]`);
  for (const revision of revisions) revision.value = found.revision;
  return found;
}

for (const form of document.querySelectorAll("form.star")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const { bookmark } = await send(form);
      button.setAttribute("aria-pressed", bookmark);
      button.firstElementChild.textContent = bookmark ? "★" : "☆";
      form.elements.bookmark.value = bookmark ? "off" : "on";
      say(bookmark ? "bookmarked" : "bookmark removed");
    } catch (error) {
      say(`Not saved: ${error.message}`, true);
    }
    button.disabled = false;
    button.focus();
  });
}
