"""What the runs of a sweep over planted features have found, by sparsity coefficient and dictionary size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterMathtext, MaxNLocator
from numpy.typing import NDArray

from ontogeny.config.figures import FigureStyle, SuperpositionFigure
from ontogeny.errors import UserError
from ontogeny.figures.caption import Caption, among, counted, listed, rounded
from ontogeny.figures.style import GREY, INK, SHADE, THIN, display_name, letter, page, panel
from ontogeny.figures.tables import over_seeds, read_metrics

TITLE = "Features in superposition"
DESCRIPTION = (
    "What dictionaries of every size and sparsity coefficient have found of planted features, on heldout rows. "
    "(a) MMCS with what was planted: the mean over planted features of the highest cosine with a latent that fires. "
    "(b) MMCS with the next larger dictionary of the same coefficient, for which nothing needs to be known of what was "
    "planted: the mean over all latents of the highest cosine with one of its latents; the largest has none. "
    "(c) Share of planted features whose cosine with a latent is above 0.9. "
    "(d) Share of latents that never fire. "
    "(e) Fraction of variance unexplained and (f) latents that fire on a row, on log scales. "
    "In (a) to (c), circles are the coefficient at which (a) is highest for a size, triangles that at which (b) is. "
    "The dashed line is a dictionary of as many latents as there are planted features. "
    "Where a run has several seeds, cells are means; they have no interval."
)

TRUTH, LARGER = "mmcs_planted", "mmcs_larger"


class Map(NamedTuple):
    """One panel of a sweep."""

    metric: str
    """What its colour is."""
    title: str
    """What stands above it."""
    logarithmic: bool = False
    """Whether colours are on a log scale; else they run from 0 to 1."""
    marked: bool = False
    """Whether the best coefficients are marked."""


MAPS = (
    Map(TRUTH, "MMCS with planted features", marked=True),
    Map(LARGER, "MMCS with next larger dictionary", marked=True),
    Map("recovered_features", "Planted features found", marked=True),
    Map("dead", "Dead latents"),
    Map("fvu", "Variance unexplained", logarithmic=True),
    Map("l0", "L0", logarithmic=True),
)
METRICS = (*(shown.metric for shown in MAPS), "mmcs_learnt", "mmcs_larger_firing", "found_larger", "mse")
COLUMNS = 3
LEFT, BOTTOM, TOP = 13.0, 9.5, 6.0
GAP, BAR, BESIDE = 1.5, 2.2, 10.5
"""Millimetres between a panel and its colour bar, of the bar, and at its right."""
LEAST = 0.1
"""Values below have the colour of this one on a log scale."""
MOST_COEFFICIENTS, MOST_SIZES = 6, 9
"""How many are named at most, evenly spaced and the first among them."""
EQUAL: dict[str, Any] = {"color": GREY, "linewidth": THIN, "linestyle": (0, (4, 3))}
LOOKS: dict[str, dict[str, Any]] = {
    "best_planted": {"linestyle": "none", "marker": "o", "markersize": 4.6, "markerfacecolor": "none"},
    "best_larger": {"linestyle": "none", "marker": "^", "markersize": 2.4, "markerfacecolor": "white"},
}
"""How the best coefficients of each size are marked."""


def draw(tables: Sequence[Path], settings: SuperpositionFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `superposition.csv` of each sweep.
        settings: size on paper of a pair of rows, colour map.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per dictionary, size and coefficient, with a column a metric (mean over
        `seeds`), `best_planted` and `best_larger`, which say whether `mmcs_planted` and `mmcs_larger` are highest there
        of the coefficients of a size, and `rows`, the heldout rows.

    Raises:
        UserError: a table is missing, damaged or empty, or has no run with an MMCS.
    """
    numbers = values(read_metrics(tables))
    sweeps = [of_sweep for _, of_sweep in numbers.groupby("dictionary", sort=False)]
    figure = page(settings.model_copy(update={"height": settings.height * len(sweeps)}))
    height, beside = settings.height / 2, GAP + BAR + BESIDE
    free = height - BOTTOM - TOP
    width = (settings.width - LEFT) / COLUMNS - beside
    for row, of_sweep in enumerate(sweeps):
        for number, shown in enumerate(MAPS):
            down, across = divmod(number, COLUMNS)
            left = LEFT + across * (width + beside)
            bottom = (2 * (len(sweeps) - row) - down - 1) * height + BOTTOM
            axis = panel(figure, left, bottom, width, free)
            bar = panel(figure, left + width + GAP, bottom, BAR, free)
            _draw_map(axis, bar, of_sweep, shown, settings.colormap)
            axis.set_title(shown.title, fontsize=style.font_size - 1, pad=3)
            letter(axis, "abcdef"[number], 4.0)
            if across:
                axis.tick_params(labelleft=False)
            else:
                axis.set_ylabel("Latents")
            if down:
                axis.set_xlabel("L1 coefficient")
        _key(figure, (2 * (len(sweeps) - row) - 1 + 0.35 * BOTTOM / height) / (2 * len(sweeps)))
    return figure, numbers


def values(metrics: pd.DataFrame) -> pd.DataFrame:
    """Lay out the metrics of runs as means over seeds, and find the best coefficient of each size.

    Args:
        metrics: as `read_metrics` returns it.

    Raises:
        UserError: no run was compared with what was planted.
    """
    table = over_seeds(metrics, (*METRICS, "planted_features"))
    if table.empty or table[TRUTH].isna().all():
        raise UserError(f"--tables: no run has {TRUTH!r}; expected superposition.csv of a sweep with latents that fire")
    table = table.sort_values(["dictionary", "latents", "sparsity"], kind="stable", ignore_index=True)
    for name, metric in (("best_planted", TRUTH), ("best_larger", LARGER)):
        best = table.dropna(subset=[metric]).groupby(["dictionary", "latents"])[metric].idxmax()
        table[name] = table.index.isin(best)
    columns = [
        "dictionary",
        "latents",
        "sparsity",
        "seeds",
        "planted_features",
        *METRICS,
        "best_planted",
        "best_larger",
    ]
    return table.rename(columns={"tokens": "rows"})[[*columns, "rows"]]


def grid(of_sweep: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """Lay a metric out by size and coefficient, not-a-number where there is none (shape: [sizes, coefficients])."""
    cells = of_sweep.pivot(index="latents", columns="sparsity", values=metric)
    return np.asarray(cells.to_numpy(dtype=np.float64))


def _draw_map(axis: Axes, bar: Axes, of_sweep: pd.DataFrame, shown: Map, colormap: str) -> None:
    cells = grid(of_sweep, shown.metric)
    norm: Normalize = Normalize(0, 1)
    if shown.logarithmic:
        top = max(float(np.nanmax(cells)), 1.0)
        cells = np.maximum(cells, LEAST if shown.metric == "l0" else np.finfo(np.float64).tiny)
        norm = LogNorm(min(float(np.nanmin(cells)), 0.5 * top), top)
    axis.set_facecolor(SHADE)
    axis.pcolormesh(np.ma.masked_invalid(cells), cmap=f"{colormap}_r", norm=norm, rasterized=True)
    _mark_axes(axis, of_sweep)
    if shown.marked:
        _mark_best(axis, of_sweep)
    colours = axis.figure.colorbar(ScalarMappable(norm, f"{colormap}_r"), cax=bar)
    colours.outline.set_visible(False)
    bar.tick_params(which="minor", length=0)
    if shown.logarithmic:
        colours.formatter = LogFormatterMathtext()
    else:
        colours.locator = MaxNLocator(5)
    colours.update_ticks()


def _mark_axes(axis: Axes, of_sweep: pd.DataFrame) -> None:
    """Give every cell the same size, and name some of them; values are meant to be evenly spaced on a log scale."""
    sizes, coefficients = (np.sort(of_sweep[column].unique()) for column in ("latents", "sparsity"))
    ticks = ((coefficients, MOST_COEFFICIENTS, axis.set_xticks), (sizes, MOST_SIZES, axis.set_yticks))
    for values_N, most, set_ticks in ticks:
        fewest, last = -(-len(values_N) // most), len(values_N) - 1
        # The last one is named as well where that can be.
        stride = next((n for n in range(fewest, 2 * fewest) if last % n == 0), fewest)
        places_N = np.arange(len(values_N)) + 0.5
        set_ticks(places_N[::stride], [f"{value:g}" for value in values_N[::stride]])
        set_ticks(places_N, minor=True)
    planted = float(of_sweep["planted_features"].iloc[0])
    if len(sizes) > 1 and sizes[0] <= planted <= sizes[-1]:
        height = float(np.interp(np.log(planted), np.log(sizes), np.arange(len(sizes)))) + 0.5
        axis.axhline(height, **EQUAL)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _mark_best(axis: Axes, of_sweep: pd.DataFrame) -> None:
    """Mark the best coefficients of each size, dark with a light rim so that they stand out from every colour."""
    sizes, coefficients = (np.sort(of_sweep[column].unique()) for column in ("latents", "sparsity"))
    for name, look in LOOKS.items():
        best = of_sweep[of_sweep[name]]
        x, y = (np.searchsorted(known, best[key]) for known, key in ((coefficients, "sparsity"), (sizes, "latents")))
        for rim, width in (("white", 1.8), (INK, 0.7)):
            axis.plot(x + 0.5, y + 0.5, **{**look, "markeredgecolor": rim, "markeredgewidth": width})


def _key(figure: Figure, height: float) -> None:
    """Say what the marks are, in the room below the first row of panels, at this share of the height of the page."""
    handles: list[Line2D] = [
        Line2D([], [], markeredgecolor=INK, markeredgewidth=0.7, **look) for look in LOOKS.values()
    ]
    handles.append(Line2D([], [], **EQUAL))
    labels = [
        "highest MMCS with planted features",
        "highest MMCS with next larger dictionary",
        "latents = planted features",
    ]
    figure.legend(handles, labels, loc="center", bbox_to_anchor=(0.5, height), ncols=3, handletextpad=0.4)


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    findings, names = [], []
    for dictionary, of_sweep in numbers.groupby("dictionary", sort=False):
        names.append(display_name(str(dictionary)))
        best = of_sweep.loc[of_sweep[TRUTH].idxmax()]
        findings.append(
            f"Of {counted(int(best['planted_features']), 'planted feature')}, the {names[-1]} finds at most "
            f"{of_sweep['recovered_features'].max():.0%}; its highest MMCS with them is {rounded(best[TRUTH])}, with "
            f"{counted(int(best['latents']), 'latent')} at coefficient {best['sparsity']:g}."
        )
        findings.append(_proxy(of_sweep))
    runs = f"{counted(len(numbers), 'run')} of {listed(names)}"
    tokens = among([int(rows) for rows in numbers["rows"].unique()], "heldout row")
    return Caption(TITLE, DESCRIPTION, " ".join(finding for finding in findings if finding), runs, tokens)


def _proxy(of_sweep: pd.DataFrame) -> str:
    """Say how well the MMCS with the next larger dictionary tells the coefficient that finds most."""
    coefficients = np.sort(of_sweep["sparsity"].unique())
    known = of_sweep.set_index("latents")
    chosen, best = known[known["best_larger"]], known[known["best_planted"]]
    sizes = [size for size in chosen.index if size in best.index]
    if not sizes:
        return ""
    places = [np.searchsorted(coefficients, table.loc[sizes, "sparsity"]) for table in (chosen, best)]
    near = int((np.abs(places[0] - places[1]) <= 1).sum())
    lost = float((best.loc[sizes, TRUTH] - chosen.loc[sizes, TRUTH]).mean())
    return (
        f"The MMCS with the next larger dictionary is highest within one step of the coefficient with the highest MMCS "
        f"with planted features for {near} of {counted(len(sizes), 'size')}; to choose by it costs {rounded(lost)} of "
        "that MMCS in the mean."
    )
