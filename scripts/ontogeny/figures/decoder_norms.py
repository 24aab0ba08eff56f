"""Decoder norms of a sample of features over training, ordered by when they emerge."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ontogeny.config.figures import DecoderNormsFigure, FigureStyle
from ontogeny.errors import UserError
from ontogeny.figures.axes import SiteAxis, site_axis, site_names
from ontogeny.figures.caption import Caption, counted, listed, rounded
from ontogeny.figures.style import (
    CLASSES,
    GREY,
    MM_PER_INCH,
    POINTS_PER_INCH,
    THICK,
    End,
    label_ends,
    letter,
    page,
    panel,
    size_of,
    spread,
)
from ontogeny.figures.tables import SITE
from ontogeny.randomness import generator
from ontogeny.sites import Site

TITLE = "Features over training"
DESCRIPTION = (
    "Decoder norm of a feature at each site over its maximum over sites. Initialisation features are above tau at the "
    "first site, emergent features rise above it later. (a) Mean over all features of a class, of "
    "those that fire on heldout rows. "
    "(b) A sample with equal numbers of both classes, where each has enough, one feature a row, ordered by the site "
    "where they emerge and then by the centre of mass of their norms; the numbers at the left are how many there are. "
    "Training steps are on a log axis with step 0 in a slot of its own."
)

LEFT, RIGHT, TOP = 33.0, 24.0, 5.0
MEANS, GUTTER = 0.24, 4.0
"""Share of the height for the means, and millimetres below them."""
COLUMNS = ("feature", "normalised_norm", "class", "emergence_site", "emergence_step", "dead")
LABELS = {"dictionary", "run", "rows", "emergence_threshold", "sites"}
"""What is read of the table's metadata."""
DRAWN = [
    *("panel", "row", "feature", "class", "emergence_step", "features"),
    *SITE,
    *("normalised_norm", "dictionary", "run", "rows"),
]


class Features(NamedTuple):
    """The features of a run that fire and have a decoder."""

    table: pd.DataFrame
    """One row each, with the columns `COLUMNS` but for the norms."""
    norms: NDArray[np.float64]
    """Their normalised norms, (L, S)."""
    sites: tuple[Site, ...]
    """The site axis."""
    labels: dict[str, str]
    """Metadata of the table, with all of `LABELS`."""


def draw(tables: Sequence[Path], settings: DecoderNormsFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `features.parquet` of one run.
        settings: size on paper, number of features, seed of the sample, colour map.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per site and per class (panel `mean`, where `features` says how many)
        or feature (panel `norms`, where `row` is its place from the top).

    Raises:
        UserError: the table is missing or damaged, or no feature fires on heldout rows.
    """
    if len(tables) != 1:
        raise UserError(f"--tables: {len(tables)} tables were named; expected features.parquet of one run")
    features = read_features(tables[0])
    if len(features.sites) == 1:
        raise UserError(
            f"{tables[0]}: the run has one site, where every normalised norm is 1;"
            " name a run of a dictionary over several sites in figures.run"
        )
    sites = site_axis(features.sites)
    numbers = values(features, sites, settings)
    figure = page(settings)
    bottom = sites.depth(style)
    width, free = settings.width - LEFT - RIGHT, settings.height - bottom - TOP - GUTTER
    means = panel(figure, LEFT, bottom + (1 - MEANS) * free + GUTTER, width, MEANS * free)
    heatmap = panel(figure, LEFT, bottom, width, (1 - MEANS) * free)
    bar = panel(figure, settings.width - RIGHT + 4, bottom, 3, 0.6 * (1 - MEANS) * free)
    _draw_means(means, sites, numbers[numbers["panel"] == "mean"])
    _draw_norms(heatmap, sites, numbers[numbers["panel"] == "norms"], settings.colormap)
    _bracket(heatmap, numbers)
    _colour_bar(bar, settings.colormap, float(features.labels["emergence_threshold"]))
    letter(means, "a", LEFT - 1)
    letter(heatmap, "b", LEFT - 1)
    return figure, numbers


def read_features(file: Path) -> Features:
    """Read the features that fire and have a decoder.

    Raises:
        UserError: the file is missing, is no such table, or all features are dead.
    """
    try:
        table = pq.read_table(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such table; run the rule that makes it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: no Parquet table ({error}); remove it and run its rule again") from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    missing = [name for name in COLUMNS if name not in table.column_names] + sorted(LABELS - metadata.keys())
    if missing:
        raise UserError(f"{file}: {missing[0]!r} is missing; run the rule 'features' again")
    frame = table.select([name for name in COLUMNS if name != "normalised_norm"]).to_pandas()
    alive = (~frame["dead"] & frame["class"].notna()).to_numpy()
    if not alive.any():
        raise UserError(
            f"{file}: none of {counted(len(frame), 'feature')} fires on the heldout rows, so there is nothing to draw;"
            " name another run in figures.run, or train with less sparsity"
        )
    sites = tuple(Site(**site) for site in json.loads(metadata["sites"]))
    norms_LS = table["normalised_norm"].combine_chunks().flatten().to_numpy().reshape(len(frame), len(sites))
    return Features(frame[alive].reset_index(drop=True), norms_LS[alive].astype(np.float64), sites, metadata)


def values(features: Features, sites: SiteAxis, settings: DecoderNormsFigure) -> pd.DataFrame:
    """Lay out what is drawn: class means over all features, and the norms of the sample in order.

    Args:
        features: of the run.
        sites: its site axis as drawn.
        settings: number of features and seed of the sample.
    """
    order = [features.sites.index(site) for site in sites.sites]
    norms_LS, table = features.norms[:, order], features.table
    classes = [name for name in CLASSES if (table["class"] == name).any()]
    members = [(table["class"] == name).to_numpy() for name in classes]
    means = _tidy(
        sites,
        np.array([norms_LS[of_class].mean(axis=0) for of_class in members]),
        {"panel": "mean", "class": classes, "features": [int(of_class.sum()) for of_class in members]},
    )
    chosen = _sample(table, norms_LS, settings)
    known = {name: chosen[name].tolist() for name in ("class", "feature", "emergence_step")}
    norms = _tidy(sites, norms_LS[chosen.index], {"panel": "norms", "row": list(range(len(chosen))), **known})
    numbers = pd.concat([means, norms], ignore_index=True)
    for name in ("dictionary", "run"):
        numbers[name] = features.labels[name]
    numbers["rows"] = int(features.labels["rows"])
    return numbers.astype(dict.fromkeys(("row", "feature", "emergence_step", "features"), "Int64"))[DRAWN]


def _sample(table: pd.DataFrame, norms_LS: NDArray[np.float64], settings: DecoderNormsFigure) -> pd.DataFrame:
    """Draw as many features of each class by chance, and order them by emergence, then by the centre of their norms.

    The site of the peak would be a worse second key: the first checkpoints hardly differ, so which of them has the
    largest norm is noise. A class with fewer features than its share leaves the rest to the other.
    """
    order = generator(settings.seed, "sample of features").permutation(len(table))
    turn = table["class"].iloc[order].groupby(table["class"].iloc[order]).cumcount().to_numpy()
    sample = order[np.argsort(turn, kind="stable")][: settings.features]
    centre = norms_LS[sample] @ np.arange(norms_LS.shape[1]) / norms_LS[sample].sum(axis=1)
    return table.iloc[sample].assign(centre=centre).sort_values(["emergence_site", "centre", "feature"])


def _tidy(sites: SiteAxis, values_NS: NDArray[np.float64], columns: dict[str, object]) -> pd.DataFrame:
    """Lay out values of N things at S sites as N x S rows, with what is known of each thing in `columns`."""
    things, places = np.indices(values_NS.shape).reshape(2, -1)
    table = pd.DataFrame(
        {name: value if isinstance(value, str) else np.asarray(value)[things] for name, value in columns.items()},
        index=range(things.size),
    )
    table[SITE] = pd.DataFrame(list(sites.sites), columns=SITE).iloc[places].to_numpy()
    return table.assign(step=table["step"].astype("int64"), normalised_norm=values_NS.ravel())


def _draw_means(axis: Axes, sites: SiteAxis, rows: pd.DataFrame) -> None:
    ends = []
    sites.mark(axis)
    for name, of_class in rows.groupby("class", sort=False):
        y = of_class["normalised_norm"].to_numpy()
        dashes = "--" if name == "initialisation" else "-"
        sites.line(axis, y, {"color": CLASSES[name], "linestyle": dashes, "marker": "o", "markersize": 2})
        ends.append(End(sites.positions[-1], y[-1], str(name), CLASSES[name]))
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.set_ylabel("Mean norm")
    axis.set_xlabel("")
    axis.tick_params(labelbottom=False)
    label_ends(axis, ends)


def _draw_norms(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, colormap: str) -> None:
    norms_NS = rows["normalised_norm"].to_numpy().reshape(-1, len(sites.sites))
    for column, (left, right) in enumerate(sites.edges):
        axis.imshow(
            norms_NS[:, column : column + 1], cmap=f"{colormap}_r", vmin=0, vmax=1, aspect="auto",
            extent=(left, right, len(norms_NS), 0), interpolation="nearest",
        )  # fmt: skip
    axis.set_ylim(len(norms_NS), 0)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    sites.mark(axis)


def _bracket(axis: Axes, numbers: pd.DataFrame) -> None:
    """Name the classes at the side of the rows that they hold, with how many features they have in all."""
    rows = numbers.loc[numbers["panel"] == "norms", ["row", "class"]].drop_duplicates()
    totals = numbers[numbers["panel"] == "mean"].groupby("class", sort=False)["features"].first()
    blocks = rows.groupby("class", sort=False)["row"].agg(["min", "max"])
    millimetre, height = 1 / size_of(axis)[0], size_of(axis)[1] * POINTS_PER_INCH / MM_PER_INCH
    size = 1.25 * mpl.rcParams["legend.fontsize"]
    shares = ((blocks["min"] + blocks["max"] + 1) / 2 / len(rows)).to_numpy(dtype=np.float64)
    places = spread(shares * height, np.full(len(blocks), 4 * size), 0, height) / height
    for (name, (first, last)), place in zip(blocks.iterrows(), places, strict=True):
        ends = [1 - (first + 0.1) / len(rows), 1 - (last + 0.9) / len(rows)]
        x = -2 * millimetre
        axis.plot(
            [x, x],
            ends,
            color=CLASSES[name],
            linewidth=2 * THICK,
            transform=axis.transAxes,
            clip_on=False,
            solid_capstyle="butt",
        )
        text = f"{name}\nfeatures\n{totals[name]:,} of {totals.sum():,}"
        axis.text(
            -4 * millimetre, 1 - place, text, color=CLASSES[name], transform=axis.transAxes, ha="right", va="center"
        )
    axis.text(
        -4 * millimetre, -0.02, f"sample of {len(rows):,}", color=GREY, transform=axis.transAxes, ha="right", va="top",
        fontsize="small",
    )  # fmt: skip


def _colour_bar(axis: Axes, colormap: str, threshold: float) -> None:
    bar = axis.figure.colorbar(ScalarMappable(Normalize(0, 1), f"{colormap}_r"), cax=axis)
    ticks = {0.0: "0", threshold: f"{threshold:g} = τ", 1.0: "1"}
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.set_label("Normalised decoder norm")
    bar.outline.set_visible(False)


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
    if len(norms) == len(CLASSES):
        stronger = norms["emergent"] > norms["initialisation"]
        since = len(stronger) - int(np.logical_and.accumulate(stronger[::-1]).sum())
        finding += f" Emergent features are the stronger ones from {names[since]} on." if stronger[-1] else ""
    first = numbers.iloc[0]
    run, tokens = f"run {first['run']} of {first['dictionary']}", counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, DESCRIPTION, finding, run, tokens)
