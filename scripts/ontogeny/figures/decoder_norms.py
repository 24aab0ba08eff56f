"""Decoder norms of a sample of features over training, ordered by when they emerge."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.colours import GROUPS
from ontogeny.config.figures import DecoderNormsFigure, FigureStyle
from ontogeny.errors import UserError
from ontogeny.evaluation.feature_table import Features
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, counted, listed, rounded
from ontogeny.figures.norms import (
    bracket,
    class_means,
    draw_band,
    draw_norms,
    features_to_draw,
    norm_bar,
    norms_as_drawn,
    sample_norms,
)
from ontogeny.figures.style import End, label_ends, letter, page, panel
from ontogeny.figures.tables import SITE
from ontogeny.site_names import site_names
from ontogeny.sites import Site

TITLE = "Features over training"
DESCRIPTION = (
    "Decoder norm of a feature at each site over its maximum over sites. Initialisation features are above tau at the "
    "first site, emergent features rise above it later. (a) Mean over all features of a class, of "
    "those that fire on heldout rows, with its 95 % interval over features by Student's t (bands, cut at 0 and 1; a "
    "mean over fewer than ten features has none). "
    "(b) A sample with equal numbers of both classes, where each has enough, one feature a row, ordered by the site "
    "where they emerge and then by the centre of mass of their norms; the numbers at the left are how many there are. "
    "Training steps are on a log axis with step 0 in a slot of its own."
)

LEFT, RIGHT, TOP = 33.0, 24.0, 5.0
MEANS, GUTTER = 0.24, 4.0
"""Share of the height for the means, and millimetres below them."""
DRAWN = [
    *("panel", "row", "feature", "class", "emergence_step", "features"),
    *SITE,
    *("normalised_norm", "standard_error", "low", "high", "dictionary", "run", "rows"),
]


def draw(tables: Sequence[Path], settings: DecoderNormsFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `features.parquet` of one run.
        settings: size on paper, number of features, seed of the sample, colour map.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per site and per class (panel `mean`, where `features` says how many, and
        `low` and `high` are the 95 % interval of the mean) or feature (panel `norms`, where `row` is its place from the
        top).

    Raises:
        UserError: the table is missing or damaged, or no feature fires on heldout rows.
    """
    if len(tables) != 1:
        raise UserError(f"--tables: {len(tables)} tables were named; expected features.parquet of one run")
    features = features_to_draw(tables[0])
    sites = site_axis(features.sites)
    numbers = values(features, sites, settings)
    figure = page(settings)
    bottom = sites.depth(style)
    width, free = settings.width - LEFT - RIGHT, settings.height - bottom - TOP - GUTTER
    means = panel(figure, LEFT, bottom + (1 - MEANS) * free + GUTTER, width, MEANS * free)
    heatmap = panel(figure, LEFT, bottom, width, (1 - MEANS) * free)
    bar = panel(figure, settings.width - RIGHT + 4, bottom, 3, 0.6 * (1 - MEANS) * free)
    rows = numbers[numbers["panel"] == "norms"]
    _draw_means(means, sites, numbers[numbers["panel"] == "mean"])
    draw_norms(heatmap, sites, rows, settings.colormap)
    bracket(heatmap, rows, features.table["class"].value_counts().to_dict())
    norm_bar(bar, settings.colormap, features.threshold)
    letter(means, "a", LEFT - 1)
    letter(heatmap, "b", LEFT - 1)
    return figure, numbers


def values(features: Features, sites: SiteAxis, settings: DecoderNormsFigure) -> pd.DataFrame:
    """Lay out what is drawn: class means over all features, and the norms of the sample in order.

    Args:
        features: of the run.
        sites: its site axis as drawn.
        settings: number of features and seed of the sample.
    """
    norms_LS, table = norms_as_drawn(features, sites), features.table
    classes = [name for name in GROUPS if (table["class"] == name).any()]
    members = {name: (table["class"] == name).to_numpy() for name in classes}
    means = class_means(sites, norms_LS, members, "mean").rename(columns={"value": "normalised_norm"})
    numbers = pd.concat([means, sample_norms(features, sites, settings)], ignore_index=True)
    for name in ("dictionary", "run"):
        numbers[name] = features.labels[name]
    numbers["rows"] = features.rows
    return numbers.astype(dict.fromkeys(("row", "feature", "emergence_step", "features"), "Int64"))[DRAWN]


def _draw_means(axis: Axes, sites: SiteAxis, rows: pd.DataFrame) -> None:
    ends = []
    sites.mark(axis)
    for name, of_class in rows.groupby("class", sort=False):
        y = of_class["normalised_norm"].to_numpy()
        dashes = "--" if name == "initialisation" else "-"
        sites.line(axis, y, {"color": GROUPS[name], "linestyle": dashes, "marker": "o", "markersize": 2})
        draw_band(axis, sites, of_class, GROUPS[name])
        ends.append(End(sites.positions[-1], y[-1], str(name), GROUPS[name]))
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.set_ylabel("Mean norm")
    axis.set_xlabel("")
    axis.tick_params(labelbottom=False)
    label_ends(axis, ends)


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    means = numbers[numbers["panel"] == "mean"]
    sites = [Site(*site) for site in means[SITE].drop_duplicates().itertuples(index=False)]
    names = site_names(sites)
    norms = {str(name): rows["normalised_norm"].to_numpy() for name, rows in means.groupby("class", sort=False)}
    counts = means.groupby("class", sort=False)["features"].first()
    classes = listed([f"{count:,} ({count / counts.sum():.0%}) are {name}" for name, count in counts.items()])
    finding = f"Of {counted(int(counts.sum()), 'feature')} that fire, {classes}."
    for name, mean in norms.items():
        ends = [f"{rounded(mean[place])} at {names[place]}" for place in (0, -1)]
        finding += f" The mean norm of {name} features is {listed(ends)}."
    if len(norms) == len(GROUPS):
        stronger = norms["emergent"] > norms["initialisation"]
        since = len(stronger) - int(np.logical_and.accumulate(stronger[::-1]).sum())
        finding += f" Emergent features are the stronger ones from {names[since]} on." if stronger[-1] else ""
    first = numbers.iloc[0]
    run, tokens = f"run {first['run']} of {first['dictionary']}", counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, DESCRIPTION, finding, run, tokens)
