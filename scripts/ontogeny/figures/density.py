"""How often features fire, over training and around every resampling of dead ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from ontogeny.config.figures import DensityFigure, FigureStyle
from ontogeny.densities import COLUMNS, EDGES
from ontogeny.errors import UserError
from ontogeny.figures.caption import Caption, among, listed, rounded
from ontogeny.figures.style import GREY, INK, LIGHT, SHADE, THICK, THIN, letter, page, panel
from ontogeny.figures.tables import read_table

TITLE = "Feature density over training"
DESCRIPTION = (
    "How often features fire: the share of training rows on which one does, on a log axis, with features that are "
    "silent on all of these rows in a slot of their own. Densities of n rows are multiples of 1/n, so that n rows "
    "can give none in the band above silent features (grey after (a)) nor in low bins between two multiples, which "
    "stay empty. (a) All features over training, one histogram a column, "
    "darker for more features (by the square root of their share); dotted lines are resamplings, at which dead "
    "features start again. "
    "Then each resampling by itself: the histogram just before (grey area) and just after (line). Histograms are of "
    "all features of the run, which are no sample, and have no interval."
)

LEFT, BOTTOM, TOP, GUTTER, MAP = 12.5, 9.5, 6.5, 7.0, 0.34
"""Millimetres around panels, and the share of the page that (a) takes."""
BAR = (26.0, 1.3)
"""Millimetres of the colour bar."""
SILENT = 3
"""Bins below the lowest one drawn at which silent features stand."""
KEY = 4
"""Bins that the words for before and after take."""


def draw(tables: Sequence[Path], settings: DensityFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `density.csv` of one run.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: rows of the table, with the `share` of all latents in a bin.

    Raises:
        UserError: the table is missing, damaged or empty.
    """
    del style
    numbers = values(tables)
    first = int(numbers.loc[(numbers["latents"] > 0) & (numbers["bin"] >= 0), "bin"].min())
    resamplings = sorted(numbers.loc[numbers["moment"] == "before", "step"].unique())
    figure = page(settings)
    height = settings.height - BOTTOM - TOP
    width = (settings.width - LEFT - 2) * (MAP if resamplings else 1)
    axis = panel(figure, LEFT, BOTTOM, width, height)
    shading = _draw_map(axis, numbers, first, resamplings)
    bar = panel(figure, LEFT + width - BAR[0], BOTTOM + height + 1.0, *BAR)
    _draw_bar(bar, shading)
    letter(axis, "a")
    each = (settings.width - LEFT - 2 - width) / max(len(resamplings), 1) - GUTTER
    most = numbers.loc[numbers["moment"] != "training", "share"].max()
    for number, step in enumerate(resamplings):
        left = LEFT + width + GUTTER + 2 + number * (each + GUTTER - 1)
        small = panel(figure, left, BOTTOM, each, height)
        _draw_resampling(small, numbers[numbers["step"] == step], first, most)
        small.set_title(f"step {step:,}", fontsize="small", pad=3)
        letter(small, chr(ord("b") + number), 4)
        if number:
            small.tick_params(labelleft=False)
        else:
            _draw_key(small)
    return figure, numbers


def values(tables: Sequence[Path]) -> pd.DataFrame:
    """Read what is drawn: the table, with `bin` (-1 for silent latents) and `share` of all latents.

    Raises:
        UserError: there is not one table, or it is damaged or empty.
    """
    if len(tables) != 1:
        raise UserError(f"--tables: there are {len(tables)}; expected the density.csv of one run")
    table = read_table(tables[0], COLUMNS)
    table["bin"] = np.where(table["low"].isna(), -1, np.searchsorted(EDGES, table["low"].fillna(EDGES[0]) + 1e-6) - 1)
    table["share"] = table["latents"] / table.groupby(["step", "moment"])["latents"].transform("sum")
    return table.assign(run="/".join(tables[0].parts[-3:-1]))


def _shares(rows: pd.DataFrame, first: int) -> NDArray[np.float64]:
    """Put a histogram in order: silent features, an empty stretch, and the bins from `first` on."""
    shares = rows.set_index("bin")["share"].reindex(range(-1, len(EDGES) - 1)).to_numpy(dtype=np.float64)
    return np.concatenate([shares[:1], np.zeros(SILENT - 1), shares[1 + first :]])


def _edges(first: int) -> NDArray[np.float64]:
    """Edges of what `_shares` puts in order, on the axis of the exponents."""
    step = EDGES[1] - EDGES[0]
    edges: NDArray[np.float64] = EDGES[first] + step * np.arange(-SILENT, len(EDGES) - first)
    return edges


def _ticks(first: int) -> tuple[list[float], list[str]]:
    edges = _edges(first)
    powers = range(int(np.ceil(EDGES[first])), 1)
    return [float(edges[:2].mean()), *map(float, powers)], ["silent", *(f"$10^{{{power}}}$" for power in powers)]


def _draw_map(axis: Axes, numbers: pd.DataFrame, first: int, resamplings: Sequence[int]) -> QuadMesh:
    """Draw the histograms over training, each from half-way to the one before to half-way to the one after.

    Returns:
        The cells, with the norm that shades them.
    """
    # In the order of the table: at a resampling, before comes ahead of after.
    moments = [rows for _, rows in numbers.groupby(["step", "moment"], sort=False)]
    columns = [_shares(rows, first) for rows in moments]
    steps = np.array([rows["step"].iloc[0] for rows in moments], dtype=np.float64)
    edges = np.concatenate([[0], (steps[1:] + steps[:-1]) / 2, [steps[-1]]])
    shares = np.stack(columns, axis=1)
    shares[1:SILENT] = np.nan
    axis.set_facecolor("white")
    root = PowerNorm(0.5, vmin=0)
    shading = axis.pcolormesh(edges, _edges(first), shares, cmap="Greys", norm=root, rasterized=True)
    for step in resamplings:
        axis.axvline(step, color=INK, linewidth=THIN, linestyle=":")
    axis.set_xlim(0, steps[-1])
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.set_xlabel("Training step")
    ticks, names = _ticks(first)
    axis.set_yticks(ticks, names)
    axis.set_ylabel("Feature density (share of rows)")
    return shading


def _draw_bar(axis: Axes, shading: QuadMesh) -> None:
    """Draw the scale of the shades: ticks at a round share near the darkest one, its half, its tenth, and 0."""
    axis.figure.colorbar(shading, cax=axis, orientation="horizontal", ticklocation="top")
    rounds = [digit * 10.0**power for power in range(-6, 1) for digit in (1, 2, 5)]
    most = max(share for share in rounds if share <= axis.get_xlim()[1])
    ticks = [0, most / 10, most / 2, most]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.tick_params(length=1.2, pad=1)
    axis.text(-0.04, 0.5, "Share of features", ha="right", va="center", fontsize="small", transform=axis.transAxes)


def _draw_resampling(axis: Axes, rows: pd.DataFrame, first: int, most: float) -> None:
    """Draw one resampling sideways, on the axis of densities of the map."""
    edges = _edges(first)
    for moment in ("before", "after"):
        shares = _shares(rows[rows["moment"] == moment], first)
        if moment == "before":
            axis.stairs(shares, edges, orientation="horizontal", fill=True, color=LIGHT, label=moment)
        else:
            axis.stairs(shares, edges, orientation="horizontal", color=INK, linewidth=THICK, label=moment)
    axis.axhspan(edges[1], edges[SILENT], color=SHADE, linewidth=0, zorder=0)
    axis.set_xlim(0, 1.05 * most)
    axis.set_ylim(edges[0], edges[-1])
    axis.xaxis.set_major_locator(MaxNLocator(2))
    ticks, names = _ticks(first)
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.set_yticks(ticks, names)
    axis.tick_params(axis="y", colors=GREY)
    axis.set_xlabel("Share of features")


def _draw_key(axis: Axes) -> None:
    """Say which histogram is which, at the right, at the height where they leave most room."""
    (before_B, edges, _), (after_B, *_) = (patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch))
    most_B = np.maximum(before_B, after_B)
    starts = range(min(SILENT, len(most_B) - KEY), len(most_B) - KEY + 1)
    # From above: of equal heights, the uppermost.
    start = min(reversed(starts), key=lambda start: float(most_B[start : start + KEY].max()))
    middle = (edges[start] + edges[start + KEY] - 2 * edges[0]) / 2 / (edges[-1] - edges[0])
    axis.legend(
        loc="center right", bbox_to_anchor=(1.0, middle), borderaxespad=0, handlelength=1.0, handletextpad=0.4,
        labelspacing=0.3,
    )  # fmt: skip


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    silent = numbers[numbers["bin"] < 0].set_index(["step", "moment"])["share"]
    last = max(numbers["step"])
    parts = [
        f"{rounded(100 * silent[step, 'before'])} % before and {rounded(100 * silent[step, 'after'])} % after "
        f"step {step:,}"
        for step in sorted(numbers.loc[numbers["moment"] == "before", "step"].unique())
    ]
    if (last, "training") in silent.index:
        parts.append(f"{rounded(100 * silent[last, 'training'])} % after step {last:,}, the last one drawn")
    rows = among(numbers["rows"].astype(int).tolist(), "training row")
    return Caption(TITLE, DESCRIPTION, f"Silent features: {listed(parts)}.", str(numbers["run"].iloc[0]), rows)
