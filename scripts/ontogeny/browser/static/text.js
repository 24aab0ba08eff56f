// A typed text: tokens of each feature, shaded by what happens at one site.

import { setUpSamples, shade } from "./samples.js";
import { chosenSite, nameSite, setUpSites } from "./sites.js";

const data = JSON.parse(document.getElementById("data").textContent);

function show() {
  const { site, mode } = chosenSite();
  nameSite(data.axis.names);
  shade(data, mode, site);
}

setUpSamples();
setUpSites(data.axis.noun, show);
show();
document.documentElement.dataset.shown = "";
