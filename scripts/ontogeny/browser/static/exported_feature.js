// A feature of a copy without a server: the features before and after it are those of the list that led here.

import { findFeatures, parameters, readList } from "./exported.js";

const asked = parameters(location.search);
if (asked.size) {
  const here = Number(location.pathname.match(/(\d+)\.html$/)[1]);
  const found = await findFeatures(await readList(), asked);
  const at = found.indexOf(here);
  const around = document.querySelector(".around");
  const turn = (old, rel, feature, sign, label) => {
    const link = document.createElement(feature === undefined ? "span" : "a");
    link.className = feature === undefined ? "button off" : "button";
    link.textContent = sign;
    if (feature === undefined) link.setAttribute("aria-hidden", "true");
    else { Object.assign(link, { rel, href: `${feature}.html?${asked}` }); link.setAttribute("aria-label", label); }
    old.replaceWith(link);
  };
  if (at >= 0) {
    const [before, up, after] = around.children;
    turn(before, "prev", found[at - 1], "←", "Previous feature");
    turn(after, "next", found[at + 1], "→", "Next feature");
    const query = new URLSearchParams(asked);
    query.set("page", Math.floor(at / Number(asked.get("size") ?? 50)) + 1);
    up.href = `index.html?${query}#f${here}`;
    up.textContent = `${(at + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")} found`;
  }
}
document.documentElement.dataset.ready = "";
