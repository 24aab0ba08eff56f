"""How features of each type move over training."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.config.figures import FeatureTypesFigure, FigureStyle
from ontogeny.evaluation.feature_table import Features
from ontogeny.evaluation.type_rules import TYPES
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, counted, listed
from ontogeny.figures.norms import norms_as_drawn, tidy
from ontogeny.figures.style import CROSSCODERS, GREY, INK, LIGHT, THICK, THIN, letter, page, panel
from ontogeny.figures.tables import SITE
from ontogeny.figures.typed import read_typed
from ontogeny.randomness import generator

TITLE = "Features by type"
DESCRIPTION = (
    "Decoder norm over its maximum over sites, of a sample of features with equal numbers of both classes as far as "
    "there are. Line and band: median and quartiles of the features of a type, their spread and no interval of the "
    "median; thin lines: single features, by chance; "
    "dashed: median of all types together. Types are decided by measurement, the first that fits: the current token, "
    "or the previous token, explains at least a given share of the activation's variance on heldout rows; a copy of "
    "random tokens excites the feature more than the tokens themselves and than the same tokens after other ones do "
    "(induction); its top samples need at least a given number of tokens to restore the activation "
    "(context-sensitive), where a sample needs at most the tokens from the start of its context on. Training steps are "
    "on a log axis with step 0 in a slot of its own."
)

LEFT, RIGHT, TOP, GUTTER = 16.0, 3.0, 9.0, 4.0
VISIBLE = 0.2
"""Distance of two medians that are named apart."""
DRAWN = ["panel", "type", "feature", *SITE, "value", "low", "high", "features", "dictionary", "run", "rows", "settings"]


def draw(tables: Sequence[Path], settings: FeatureTypesFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure, a panel for each type that some feature is of.

    Args:
        tables: `features.parquet` and `feature_types.parquet` of one run.
        settings: size on paper, and how many single features.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: panel `type` has a row for each type (`all` is all of them) and site, with the
        median `value`, quartiles `low` and `high`, and how many `features` it has; panel `single` one for each single
        feature and site.

    Raises:
        UserError: a table is missing, damaged or of another run, or the run has one site.
    """
    features = read_typed(tables)
    sites = site_axis(features.sites)
    numbers = values(features, sites, settings)
    types = [name for name in TYPES if (numbers["type"] == name).any()]
    figure = page(settings)
    bottom = sites.depth(style)
    width = (settings.width - LEFT - RIGHT - GUTTER * (len(types) - 1)) / len(types)
    for place, name in enumerate(types):
        left = LEFT + place * (width + GUTTER)
        axis = panel(figure, left, bottom, width, settings.height - bottom - TOP)
        _draw_type(axis, sites, numbers, name, features.threshold)
        if place:
            axis.tick_params(labelleft=False)
        else:
            axis.set_ylabel("Normalised decoder norm")
        if name == types[-1]:
            _name_all(axis, sites, numbers, name)
        letter(axis, "abcde"[place], 0.0 if place else LEFT - 1)
    return figure, numbers


def values(features: Features, sites: SiteAxis, settings: FeatureTypesFigure) -> pd.DataFrame:
    """Lay out what is drawn, with the columns `DRAWN`.

    Args:
        features: those whose types were decided.
        sites: their site axis as drawn.
        settings: how many single features of each type, and the seed.
    """
    norms_FS, type_F = norms_as_drawn(features, sites), features.table["type"].to_numpy()
    order = generator(settings.seed, "single features").permutation(len(type_F))
    parts = []
    for name in ("all", *TYPES):
        own = np.flatnonzero((type_F == name) | (name == "all"))
        if not len(own):
            continue
        low_S, median_S, high_S = np.quantile(norms_FS[own], (0.25, 0.5, 0.75), axis=0)
        summary = tidy(sites, median_S[None], {"panel": "type", "type": name})
        parts.append(summary.assign(low=low_S, high=high_S, features=len(own)))
        chosen = order[np.isin(order, own)][: settings.singles if name != "all" else 0]
        known = {"panel": "single", "type": name, "feature": features.table["feature"].to_numpy()[chosen]}
        parts += [tidy(sites, norms_FS[chosen], known)] if len(chosen) else []
    numbers = pd.concat(parts, ignore_index=True).rename(columns={"normalised_norm": "value"})
    known = {name: features.labels[name] for name in ("dictionary", "run", "settings")}
    numbers = numbers.assign(rows=features.rows, **known)
    return numbers.reindex(columns=DRAWN).astype({"feature": "Int64", "features": "Int64"})


def _draw_type(axis: Axes, sites: SiteAxis, numbers: pd.DataFrame, name: str, threshold: float) -> None:
    of_type, summary = numbers[numbers["type"] == name], numbers["panel"] == "type"
    total = numbers[summary & (numbers["type"] == "all")]
    own = of_type[of_type["panel"] == "type"]
    sites.mark(axis)
    axis.axhline(threshold, color=LIGHT, linewidth=THIN, zorder=0)
    for _, single in of_type[of_type["panel"] == "single"].groupby("feature"):
        sites.line(axis, single["value"], {"color": LIGHT, "linewidth": 0.5, "zorder": 1})
    sites.band(axis, own["low"], own["high"], CROSSCODERS[0])
    sites.line(axis, total["value"], {"color": GREY, "linewidth": THIN, "linestyle": "--", "zorder": 2})
    look = {"color": CROSSCODERS[0], "linewidth": 1.5 * THICK, "marker": "o", "markersize": 2.5, "zorder": 3}
    sites.line(axis, own["value"], look)
    axis.set_ylim(0, 1.02)
    axis.set_yticks([0, threshold, 1], ["0", f"τ = {threshold:g}", "1"])
    count = f"{own['features'].iloc[0]:,} of {total['features'].iloc[0]:,}"
    axis.annotate(
        f"{name}\n{count}", (0.5, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", color=INK,
        ha="center", va="bottom", fontsize="small",
    )  # fmt: skip


def _name_all(axis: Axes, sites: SiteAxis, numbers: pd.DataFrame, name: str) -> None:
    """Name the median of all types above it, at the last site where that of the panel is visibly below."""
    medians = numbers[numbers["panel"] == "type"].groupby("type")["value"]
    total, own = (medians.get_group(of).to_numpy() for of in ("all", name))
    below = np.flatnonzero(total - own > VISIBLE)
    if len(below):
        at = (sites.positions[below[-1]], total[below[-1]])
        axis.annotate(
            "all types", at, (-2, 1), textcoords="offset points", color=GREY, fontsize="small", ha="right", va="bottom"
        )


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    medians = numbers[numbers["panel"] == "type"]
    counts = medians.groupby("type", sort=False)["features"].first()
    total = int(counts["all"])
    first = numbers.iloc[0]
    limits = json.loads(first["settings"])
    parts = [f"{int(counts.get(name, 0)):,} are {name}" for name in TYPES]
    finding = (
        f"Of {counted(total, 'feature')} measured, {listed(parts)}. Thresholds: {limits['token_share']:.0%} of the "
        f"variance; an induction score of {limits['induction_score']:g} over at least {limits['induction_firings']:,} "
        f"firings; {limits['context']:,} tokens to restore {limits['restored']:.0%} of the activation, in the median "
        f"of up to {limits['samples']:,} top samples."
    )
    rises = []
    for name, own in medians[medians["type"] != "all"].groupby("type", sort=False):
        value = own["value"].to_numpy()
        rises.append(f"{name} {value[0]:.2f} and {value[-1]:.2f}")
    finding += f" The median norm at the first and the last site is {listed(rises)}."
    run, tokens = f"run {first['run']} of {first['dictionary']}", counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, DESCRIPTION, finding, run, tokens)
