"""Error of a dictionary over one site, and loss of the model with it in place, against L0."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ontogeny.colours import shades
from ontogeny.figures.caption import counted
from ontogeny.figures.l0_axis import limit_l0
from ontogeny.figures.style import GREY, INK, LIGHT, SINGLES, THIN, End, label_ends

DESCRIPTION = (
    "How well a dictionary over one site reconstructs activations, and what that costs the language model, against L0, "
    "the mean number of features active on a row. "
    "(a) Fraction of variance unexplained (FVU) of heldout activations; predicting their mean gives 1. "
    "(b) Next-token loss of the model as it is (clean), with the dictionary's reconstruction in place of its "
    "activations, and with their mean or zero instead; the lines across are the losses that no dictionary decides. "
    "(c) Share of the ablated loss that the reconstruction recovers: 1 is the clean model, 0 the ablation, and above 1 "
    "the model predicts better with the reconstruction than without; only where an ablation costs enough to tell. "
    "One shade per dictionary size, darker for more latents, and one point per sparsity; over seeds, points are means "
    "and bars reach from the lowest to the highest; with one seed there is no interval, and both are the value itself. "
    "Planted activations have no model, and (a) alone."
)
AT_ONE_SITE = "Reconstruction at one site", DESCRIPTION
"""Title and description of the figure."""
AXES = {"fvu": "Unexplained variance (FVU)", "loss": "Next-token loss (nats)", "recovered": "Loss recovered (share)"}
"""Panels, and what their axes say."""
LEVELS: dict[str, dict[str, Any]] = {
    "zero ablation": {"color": GREY, "linestyle": "--", "linewidth": THIN},
    "mean ablation": {"color": GREY, "linewidth": THIN},
    "clean": {"color": INK, "linewidth": THIN},
}
"""Losses that no dictionary decides, and how they are drawn."""
BELOW = {"zero ablation": {"linestyle": "--", "linewidth": THIN, "markerfacecolor": "white"}}
"""Look of shares that are recovered of the zero ablation."""


def names_at_one_site(numbers: pd.DataFrame) -> dict[str, list[str]]:
    """List what is written at the right of each panel, for `numbers` of one site."""
    sizes = _sizes(numbers)
    return {"fvu": [label for label, _ in sizes.values()], "loss": ["reconstructed"], "recovered": ["ablation"]}


def draw_at_one_site(axis: Axes, numbers: pd.DataFrame, name: str) -> None:
    """Draw a panel: a line for every dictionary size, a point for every sparsity.

    Args:
        axis: the panel.
        numbers: what the figure draws, at one site.
        name: one of `AXES`.
    """
    rows, ends = numbers[numbers["panel"] == name], []
    limit_l0(axis, float(numbers["l0"].min()), float(numbers["l0"].max()))
    for series, of_series in rows.groupby("series", sort=False):
        if name == "loss" and str(series) in LEVELS:
            level = float(of_series["value"].mean())
            axis.axhline(level, **LEVELS[str(series)])
            text = str(series).replace(" ", "\n")
            ends.append(End(axis.get_xlim()[1], level, text, LEVELS[str(series)]["color"]))
            continue
        for latents, (label, colour) in _sizes(numbers).items():
            points = of_series[of_series["latents"] == latents].sort_values("l0")
            _line(axis, points, {"color": colour, **BELOW.get(str(series), {})})
            names = {"loss": "reconstructed", "recovered": f"vs {series}".replace(" ablation", "\nablation")}
            last = points.iloc[-1]
            ends.append(End(last["l0"], last["value"], names.get(name, label), colour))
    _limit(axis, rows, name)
    label_ends(axis, ends if name == "fvu" else list({end.text: end for end in ends}.values()))


def _sizes(numbers: pd.DataFrame) -> dict[int, tuple[str, str]]:
    """Give every dictionary size its name, empty where there is one alone, and its colour."""
    sizes = sorted(int(latents) for latents in numbers["latents"].unique())
    names = [counted(latents, "latent") if len(sizes) > 1 else "" for latents in sizes]
    return dict(zip(sizes, zip(names, shades(SINGLES[0], len(sizes)), strict=True), strict=True))


def _line(axis: Axes, points: pd.DataFrame, look: Mapping[str, Any]) -> None:
    """Draw a line over L0, with bars from the lowest to the highest of several seeds."""
    y = points["value"].to_numpy()
    bars = np.array([y - points["low"], points["high"] - y]) if points["seeds"].max() > 1 else None
    axis.errorbar(points["l0"], y, bars, marker="s", elinewidth=THIN, zorder=3, **look)


def _limit(axis: Axes, rows: pd.DataFrame, name: str) -> None:
    low, high = float(rows["low"].min()), float(rows["high"].max())
    if name == "fvu":
        axis.set_ylim(0, 1.08 * high)
    elif name == "recovered":
        axis.axhline(1, color=LIGHT, linewidth=THIN, zorder=0)
        margin = 0.1 * max(high, 1) - 0.1 * low
        axis.set_ylim(low - 2 * margin, max(high, 1) + margin)
    else:
        margin = 0.08 * (high - low)
        axis.set_ylim(low - margin, high + margin)
    axis.set_ylabel(AXES[name])
    axis.locator_params(axis="y", nbins=6)
