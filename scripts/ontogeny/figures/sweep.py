"""A sweep of sparsity and size at several sites: unexplained variance and dead features against L0, site by site."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ontogeny.colours import shades
from ontogeny.config.figures import FigureStyle, SweepFigure
from ontogeny.errors import UserError
from ontogeny.figures.caption import Caption, among, counted, listed, rounded
from ontogeny.figures.style import SINGLES, End, display_name, label_ends, page, panel, room
from ontogeny.figures.tables import over_seeds, read_metrics

TITLE = "Sparsity and size at every site"
DESCRIPTION = (
    "Runs of dictionaries that sweep sparsity and size, one column of panels a dictionary. "
    "Above, the fraction of variance unexplained (FVU) of heldout activations, all sites of a dictionary pooled, "
    "against L0, the mean number of features active on a row; below, the share of features that are silent on all "
    "heldout rows. One line a size, darker for more features, one point a sparsity. "
    "Where a run has several seeds, points are means, and the table beside the figure has the lowest and the highest; "
    "with one seed there is no interval, and both are the value itself."
)

METRICS = {"fvu": "FVU", "dead": "Dead features (share)"}
"""What the rows of panels show."""
X = "l0"
MARKERS = ("o", "s", "^", "D", "v", "P")
"""By size."""
LEFT, BOTTOM, TOP, GAP, BETWEEN = 12.5, 9.5, 5.0, 2.5, 4.0


def draw(tables: Sequence[Path], settings: SweepFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `reconstruction.csv` of every run of the dictionaries.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per dictionary and point of its sweep; `_low` and `_high` are the
        extremes over `seeds`.

    Raises:
        UserError: a table is missing, damaged or empty, or has not all measures.
    """
    numbers = values(read_metrics(tables))
    sizes = sorted(numbers["latents"].unique())
    looks = dict(zip(sizes, zip(shades(SINGLES[0], len(sizes)), MARKERS * len(sizes), strict=False), strict=True))
    names = list(dict.fromkeys(numbers["dictionary"]))
    figure = page(settings)
    right = room((counted(int(size), "latent") for size in sizes), style)
    width = (settings.width - LEFT - right - GAP * (len(names) - 1)) / len(names)
    height = (settings.height - BOTTOM - TOP - BETWEEN) / len(METRICS)
    for column, name in enumerate(names):
        for row, metric in enumerate(METRICS):
            bottom = BOTTOM + (len(METRICS) - 1 - row) * (height + BETWEEN)
            axis = panel(figure, LEFT + column * (width + GAP), bottom, width, height)
            ends = _draw_panel(axis, numbers[numbers["dictionary"] == name], metric, looks)
            _frame(axis, numbers, metric, outer=column == 0, lowest=row == len(METRICS) - 1)
            if row == 0:
                axis.set_title(display_name(name), fontsize="small", pad=3)
            if column == len(names) - 1:
                label_ends(axis, ends)
    return figure, numbers


def values(metrics: pd.DataFrame) -> pd.DataFrame:
    """Summarise runs over seeds, all sites of a dictionary pooled.

    Args:
        metrics: as `read_metrics` returns it.
    """
    table = over_seeds(metrics[metrics["model"] == ""], (X, *METRICS))
    extremes = [f"{name}_{end}" for name in (X, *METRICS) for end in ("low", "high")]
    columns = ["dictionary", "point", "latents", "sparsity", "seeds", "tokens", X, *METRICS, *extremes]
    found = table.dropna(subset=[X, *METRICS])[columns]
    if found.empty:
        raise UserError("--tables: no run has FVU, L0 and dead features; expected reconstruction.csv of every run")
    order = {name: number for number, name in enumerate(dict.fromkeys(metrics["dictionary"]))}
    ranked = found.assign(rank=found["dictionary"].map(order)).sort_values(["rank", "latents", X], ignore_index=True)
    return ranked.drop(columns="rank")


def _draw_panel(axis: Axes, rows: pd.DataFrame, metric: str, looks: dict[int, tuple[str, str]]) -> list[End]:
    """Draw one line a size, and return their ends, named."""
    ends = []
    for size, (colour, marker) in looks.items():
        line = rows[rows["latents"] == size]
        if len(line):
            axis.plot(line[X], line[metric], color=colour, marker=marker, markersize=2.5)
            ends.append(End(line[X].iloc[-1], line[metric].iloc[-1], counted(int(size), "latent"), colour))
    return ends


def _frame(axis: Axes, numbers: pd.DataFrame, metric: str, outer: bool, lowest: bool) -> None:
    """Give a panel the limits that all of its kind share, and names where it stands at an edge."""
    axis.set_xscale("log")
    axis.set_xlim(numbers[X].min() / 1.3, numbers[X].max() * 1.3)
    axis.xaxis.set_major_locator(LogLocator(10, subs=(1, 3)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(0, max(1.08 * numbers[metric].max(), 0.05))
    axis.locator_params(axis="y", nbins=5)
    axis.tick_params(labelleft=outer, labelbottom=lowest)
    if outer:
        axis.set_ylabel(METRICS[metric])
    if lowest:
        axis.set_xlabel("L0")


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    parts = []
    for name, rows in numbers.groupby("dictionary", sort=False):
        low, high = rows.loc[rows[X].idxmin()], rows.loc[rows[X].idxmax()]
        ends = [f"{rounded(row['fvu'])} at L0 {rounded(row[X])}" for row in (low, high)]
        dead = f"{rounded(100 * rows['dead'].min())} to {rounded(100 * rows['dead'].max())} % dead"
        parts.append(f"{' to '.join(ends)}, {dead} ({name})")
    runs = numbers.groupby("dictionary", sort=False)["point"].nunique()
    return Caption(
        TITLE,
        DESCRIPTION,
        f"FVU: {'; '.join(parts)}.",
        listed([f"{counted(int(count), 'point')} of {name}" for name, count in runs.items()]),
        among(numbers["tokens"].astype(int).tolist(), "heldout row"),
    )
