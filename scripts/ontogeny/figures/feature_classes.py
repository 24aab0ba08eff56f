"""How many features are of each class, by tau, and how each class moves over training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ontogeny.colours import GROUPS, class_colours
from ontogeny.config.figures import FeatureClassesFigure, FigureStyle
from ontogeny.errors import UserError
from ontogeny.evaluation.emergence import CLASSES, feature_classes
from ontogeny.evaluation.feature_table import Features
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, counted, listed
from ontogeny.figures.norms import class_means, draw_band, features_to_draw, norms_as_drawn, read_geometry
from ontogeny.figures.style import (
    INK,
    LIGHT,
    MM_PER_INCH,
    POINTS_PER_INCH,
    THIN,
    End,
    label_ends,
    letter,
    page,
    panel,
    room,
    size_of,
    width_of,
)
from ontogeny.figures.tables import SITE
from ontogeny.figures.wilson import with_count_interval

TITLE = "Classes of features"
DESCRIPTION = (
    "Every feature that fires on heldout rows is in exactly one of five classes, by where its decoder norm over its "
    "maximum over sites is above tau. Initialisation features are above tau at the first site: always-on ones at every "
    "site, returning ones at the last but not at all, fading ones not at the last. Emergent features are not above tau "
    "at the first site: lasting ones are at the last, transient ones only in between. "
    "(a) Features of each class by tau; the line marks the tau of the study, whose counts stand at the right. "
    "(b) Mean normalised norm of each class at that tau, with its 95 % interval over features by Student's t (bands, "
    "cut at 0 and 1; a mean over fewer than ten features has none). "
    "In the table beside the figure, counts have a 95 % interval by Wilson's formula, which takes the features for a "
    "sample: it is for the share of a class among the features of such a dictionary. "
    "Training steps are on a log axis with step 0 in a slot of its own."
)

LEFT, TOP, BOTTOM, GUTTER = 12.0, 6.0, 9.5, 12.0
STRIP = 1.0
"""Millimetres of the strips at the right of the areas that span the classes of the paper."""
DASHES = dict(zip(CLASSES, ("-", "--", ":", "-", "--"), strict=True))
DRAWN = [
    "panel",
    "class",
    "threshold",
    *SITE,
    "value",
    "low",
    "high",
    "standard_error",
    "features",
    "dictionary",
    "run",
    "rows",
]


def draw(tables: Sequence[Path], settings: FeatureClassesFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `features.parquet` and `classes.csv` of one run.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn, its number always in `value`: panel `counts` has a row per class and tau, panel
        `norms` one per class that has features at the study's tau, and site, with how many `features` it has and the
        `standard_error` over them. `low` and `high` are a 95 % interval of the number.

    Raises:
        UserError: a table is missing, damaged or of another run, no feature fires, or the run has one site.
    """
    if len(tables) != 2:
        raise UserError(f"--tables: {len(tables)} tables were named; expected features.parquet and classes.csv")
    features = features_to_draw(tables[0])
    sites = site_axis(features.sites)
    numbers = values(features, sites, tables[1])
    counts, norms = (numbers[numbers["panel"] == name] for name in ("counts", "norms"))
    figure = page(settings)
    groups = _group_names(counts, features.threshold)
    names = [f"{name} ({count:,})" for name, count in norms.groupby("class", sort=False)["features"].first().items()]
    right, beside = room(names, style), room([*groups.values(), *CLASSES], style) + STRIP + 1
    width = (settings.width - 2 * LEFT - right - beside - GUTTER + 4) / 2
    areas = panel(figure, LEFT, BOTTOM, width, settings.height - BOTTOM - TOP)
    bottom = max(sites.depth(style), BOTTOM)
    left = settings.width - right - width
    lines = panel(figure, left, bottom, width, settings.height - bottom - TOP)
    _draw_counts(areas, counts, features.threshold, groups)
    _draw_norms(lines, sites, norms, features.threshold)
    letter(areas, "a", LEFT - 1)
    letter(lines, "b", 11)
    return figure, numbers


def values(features: Features, sites: SiteAxis, classes: Path) -> pd.DataFrame:
    """Lay out what is drawn, with the columns `DRAWN`.

    Args:
        features: of the run.
        sites: its site axis as drawn.
        classes: its `classes.csv`.
    """
    table = read_geometry(classes, ["threshold"], features)
    counts = table[table["metric"].isin(CLASSES)].drop(columns=SITE).rename(columns={"metric": "class"})
    order = counts["class"].map(list(CLASSES).index)
    counts = counts.assign(order=order, panel="counts", features=counts["value"]).sort_values(["order", "threshold"])
    found_L, norms_LS = feature_classes(features.norms, features.threshold), norms_as_drawn(features, sites)
    counts = with_count_interval(counts.assign(total=len(features.norms)), "value", "total")
    members = {name: found_L == name for name in CLASSES if (found_L == name).any()}
    norms = class_means(sites, norms_LS, members, "norms").assign(threshold=features.threshold)
    numbers = pd.concat([counts, norms], ignore_index=True)
    known = {name: features.labels[name] for name in ("dictionary", "run")}
    numbers = numbers.assign(rows=features.rows, **known)
    return numbers.astype({"step": "Int64", "features": "int64"})[DRAWN]


def counts_by_class(rows: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values of tau (shape: [T]) and the features of each of `CLASSES` at each (shape: [5, T])."""
    wide = rows.pivot(index="class", columns="threshold", values="value").reindex(CLASSES)
    return wide.columns.to_numpy(dtype=np.float64), wide.to_numpy(dtype=np.float64)


def _group_names(rows: pd.DataFrame, threshold: float) -> dict[str, str]:
    """Name the classes of the paper with their features at the study's tau."""
    away = (rows["threshold"] - threshold).abs()
    at_tau = rows[away == away.min()]
    totals = at_tau.groupby(at_tau["class"].map(CLASSES))["features"].sum()
    return {name: f"{name}\n{totals[name]:,} at τ" for name in GROUPS}


def _draw_counts(axis: Axes, rows: pd.DataFrame, threshold: float, groups: dict[str, str]) -> None:
    tau_T, counts_CT = counts_by_class(rows)
    tops_CT = np.vstack([np.zeros(len(tau_T)), counts_CT.cumsum(axis=0)])
    colours = class_colours()
    axis.set_xlim(tau_T[0], tau_T[-1])
    axis.set_ylim(0, tops_CT[-1, 0])
    axis.set_xlabel("Threshold τ of the normalised norm")
    axis.set_ylabel("Features that fire")
    axis.locator_params(axis="y", nbins=6, integer=True)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    right = 1 + STRIP / size_of(axis)[0]
    beside, ends = tau_T[0] + right * (tau_T[-1] - tau_T[0]), []
    for name, low_T, high_T in zip(CLASSES, tops_CT[:-1], tops_CT[1:], strict=True):
        if (low_T == high_T).all():
            continue
        axis.fill_between(tau_T, low_T, high_T, facecolor=colours[name], edgecolor="white", linewidth=THIN)
        if not _name_inside(axis, name, (tau_T, low_T, high_T), threshold, colours[name]) and high_T[-1] > low_T[-1]:
            ends.append(End(beside, (low_T[-1] + high_T[-1]) / 2, name, INK))
    axis.axvline(threshold, color=INK, linewidth=THIN, linestyle="--")
    mark = f"τ = {threshold:g}"
    axis.text(threshold, 1.02, mark, transform=axis.get_xaxis_transform(), ha="center", va="bottom", fontsize="small")
    for whole, text in groups.items():
        own = [number for number, of in enumerate(CLASSES.values()) if of == whole]
        low, high = tops_CT[own[0], -1], tops_CT[own[-1] + 1, -1]
        look: dict[str, Any] = {"color": GROUPS[whole], "linewidth": 2, "clip_on": False, "solid_capstyle": "butt"}
        axis.plot([right, right], [low, high], transform=axis.get_yaxis_transform(), **look)
        ends.append(End(beside, (low + high) / 2, text, GROUPS[whole]))
    label_ends(axis, ends, 1.5 + STRIP)


def _name_inside(axis: Axes, name: str, area: tuple[NDArray[np.float64], ...], threshold: float, colour: str) -> bool:
    """Write the name of a class into its area, where there is most room beside the line of tau, if there is enough.

    Args:
        axis: a panel whose limits are final.
        name: the class.
        area: tau, and the lower and upper edge of the area at each (shape: [T] each).
        threshold: where the line is.
        colour: of the area.

    Returns:
        Whether the name was written.
    """
    (tau_T, low_T, high_T), (width, height) = area, size_of(axis)
    size = mpl.rcParams["legend.fontsize"]
    half = (width_of(name, size) / 2 + 1) / width * (tau_T[-1] - tau_T[0])
    away_T = np.stack([tau_T - tau_T[0], tau_T[-1] - tau_T, np.abs(tau_T - threshold)]).min(axis=0)
    near_TT = np.abs(tau_T[:, None] - tau_T) <= half
    lowest_T = np.where(near_TT, low_T, -np.inf).max(axis=1)
    highest_T = np.where(near_TT, high_T, np.inf).min(axis=1)
    best = int(np.where(away_T > half, highest_T - lowest_T, -np.inf).argmax())
    if (highest_T - lowest_T)[best] / axis.get_ylim()[1] * height < 1.3 * size * MM_PER_INCH / POINTS_PER_INCH:
        return False
    ink = "white" if np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) < 0.5 else INK
    middle = (lowest_T[best] + highest_T[best]) / 2
    axis.text(tau_T[best], middle, name, ha="center", va="center", fontsize=size, color=ink)
    return True


def _draw_norms(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, threshold: float) -> None:
    sites.mark(axis)
    colours, ends = class_colours(), []
    for name, of_class in rows.groupby("class", sort=False):
        y = of_class["value"].to_numpy()
        look = {"color": colours[str(name)], "linestyle": DASHES[str(name)], "marker": "o", "markersize": 2}
        sites.line(axis, y, look | ({"markerfacecolor": "white"} if CLASSES[str(name)] == "emergent" else {}))
        draw_band(axis, sites, of_class, colours[str(name)])
        text = f"{name} ({of_class['features'].iloc[0]:,})"
        ends.append(End(sites.positions[-1], y[-1], text, GROUPS[CLASSES[str(name)]]))
    axis.axhline(threshold, color=LIGHT, linewidth=THIN, zorder=0)
    axis.set_ylim(0, 1.02)
    axis.set_yticks([0, threshold, 1], ["0", f"τ = {threshold:g}", "1"])
    axis.set_ylabel("Mean normalised norm")
    label_ends(axis, ends)


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    counts, norms = (numbers[numbers["panel"] == name] for name in ("counts", "norms"))
    tau_T, counts_CT = counts_by_class(counts)
    threshold, total = float(norms["threshold"].iloc[0]), int(counts_CT[:, 0].sum())
    at_tau = counts_CT[:, np.abs(tau_T - threshold).argmin()]
    parts = [f"{int(count):,} are {name}" for name, count in zip(CLASSES, at_tau, strict=True)]
    emergent_T = counts_CT[[whole == "emergent" for whole in CLASSES.values()]].sum(axis=0)
    finding = (
        f"Of {counted(total, 'feature')} that fire, {listed(parts)} at tau = {threshold:g}. From tau = {tau_T[0]:g} to "
        f"{tau_T[-1]:g}, emergent features go from {int(emergent_T[0]):,} to {int(emergent_T[-1]):,}."
    )
    first = numbers.iloc[0]
    run, tokens = f"run {first['run']} of {first['dictionary']}", counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, DESCRIPTION, finding, run, tokens)
