// The slider over sites, and what tokens are shaded by.

const MILLISECONDS = 700;
const slider = document.getElementById("site");

/** The site and the mode that are chosen. */
export function chosenSite() {
  return { site: slider ? Number(slider.value) : 0, mode: document.querySelector("[name=mode]:checked")?.value ?? "all" };
}

/** Write the name of the chosen site. */
export function nameSite(names) {
  if (!slider) return;
  const name = names[Number(slider.value)];
  slider.setAttribute("aria-valuetext", name);
  document.getElementById("site-name").textContent = name;
}

/** Let the slider, its button and its modes change what is shown; return what chooses a site, null if there is one. */
export function setUpSites(noun, show) {
  if (!slider) return null;
  const play = document.getElementById("play");
  let timer = null;
  // The shading that all sites share is left once a site is chosen.
  const choose = (site) => {
    slider.value = site;
    const shared = document.querySelector("[name=mode][value=all]");
    const here = document.querySelector("[name=mode][value=read]") ?? document.querySelector("[name=mode][value=written]");
    if (shared.checked && here) here.checked = true;
    show();
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.firstElementChild.textContent = "▶";
    play.setAttribute("aria-label", `Play through the ${noun}s`);
  };
  slider.addEventListener("input", () => { stop(); choose(slider.value); });
  for (const radio of document.querySelectorAll("[name=mode]")) radio.addEventListener("change", show);
  play.addEventListener("click", () => {
    if (timer) return stop();
    const last = Number(slider.max);
    choose(Number(slider.value) === last ? 0 : Number(slider.value));
    play.firstElementChild.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      if (Number(slider.value) === last) return stop();
      choose(Number(slider.value) + 1);
    }, MILLISECONDS);
  });
  return choose;
}
