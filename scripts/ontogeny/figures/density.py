"""How often features fire, over training and around every resampling of dead ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
    "silent on all of these rows in a slot of their own. (a) All features over training, one histogram a column, "
    "darker for more features (by the square root of their share); dotted lines are resamplings, at which dead "
    "features start again. "
    "Then each resampling by itself: the histogram just before (grey area) and just after (line). Histograms are of "
    "all features of the run, which are no sample, and have no interval."
)

LEFT, BOTTOM, TOP, GUTTER, MAP = 12.5, 9.5, 5.5, 7.0, 0.34
"""Millimetres around panels, and the share of the page that (a) takes."""
SILENT = 3
"""Bins below the lowest one drawn at which silent features stand."""


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
    _draw_map(axis, numbers, first, resamplings)
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


def _draw_map(axis: Axes, numbers: pd.DataFrame, first: int, resamplings: Sequence[int]) -> None:
    """Draw the histograms over training, each from half-way to the one before to half-way to the one after."""
    # In the order of the table: at a resampling, before comes ahead of after.
    moments = [rows for _, rows in numbers.groupby(["step", "moment"], sort=False)]
    columns = [_shares(rows, first) for rows in moments]
    steps = np.array([rows["step"].iloc[0] for rows in moments], dtype=np.float64)
    edges = np.concatenate([[0], (steps[1:] + steps[:-1]) / 2, [steps[-1]]])
    shares = np.stack(columns, axis=1)
    shares[1:SILENT] = np.nan
    axis.set_facecolor("white")
    axis.pcolormesh(edges, _edges(first), np.sqrt(shares), cmap="Greys", vmin=0, rasterized=True)
    for step in resamplings:
        axis.axvline(step, color=INK, linewidth=THIN, linestyle=":")
    axis.set_xlim(0, steps[-1])
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.set_xlabel("Training step")
    ticks, names = _ticks(first)
    axis.set_yticks(ticks, names)
    axis.set_ylabel("Feature density (share of rows)")


def _draw_resampling(axis: Axes, rows: pd.DataFrame, first: int, most: float) -> None:
    """Draw one resampling sideways, on the axis of densities of the map."""
    edges = _edges(first)
    for moment in ("before", "after"):
        shares = _shares(rows[rows["moment"] == moment], first)
        if moment == "before":
            axis.stairs(shares, edges, orientation="horizontal", fill=True, color=LIGHT)
        else:
            axis.stairs(shares, edges, orientation="horizontal", color=INK, linewidth=THICK)
    axis.axhspan(edges[1], edges[SILENT], color=SHADE, linewidth=0, zorder=0)
    axis.set_xlim(0, 1.05 * most)
    axis.set_ylim(edges[0], edges[-1])
    axis.xaxis.set_major_locator(MaxNLocator(2))
    ticks, names = _ticks(first)
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.set_yticks(ticks, names)
    axis.tick_params(axis="y", colors=GREY)
    axis.set_xlabel("Share of features")


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
