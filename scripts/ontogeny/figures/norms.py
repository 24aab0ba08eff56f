"""Decoder norms of a sample of features as a heatmap, for the figures that show one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from ontogeny.colours import GROUPS
from ontogeny.config.figures import DecoderNormsFigure
from ontogeny.errors import UserError
from ontogeny.evaluation.feature_table import Features, read_features
from ontogeny.evaluation.tables import COLUMNS
from ontogeny.figures.axes import SiteAxis
from ontogeny.figures.caption import counted
from ontogeny.figures.student import with_interval
from ontogeny.figures.style import GREY, MM_PER_INCH, POINTS_PER_INCH, THICK, size_of, spread, width_of
from ontogeny.figures.tables import SITE, read_table
from ontogeny.randomness import generator

FEWEST_FEATURES = 10
"""Features of a class below which its mean has no interval."""


def features_to_draw(file: Path) -> Features:
    """Read the features of a run over several sites, at least one of which fires.

    Raises:
        UserError: the table is missing or damaged, all features are dead, or the run has one site.
    """
    features = read_features(file)
    if features.table.empty:
        raise UserError(
            f"{file}: none of {counted(features.latents, 'feature')} fires on the heldout rows, so there is nothing to"
            " draw; name another run in figures.run, or train with less sparsity"
        )
    if len(features.sites) == 1:
        raise UserError(
            f"{file}: the run has one site, where every normalised norm is 1;"
            " name a run of a dictionary over several sites in figures.run"
        )
    return features


def read_geometry(file: Path, columns: Sequence[str], features: Features) -> pd.DataFrame:
    """Read a table of the geometry of a run, with `columns` beyond those of all tables of metrics.

    Raises:
        UserError: the table is missing, damaged, or of another run than the features.
    """
    table = read_table(file, [*COLUMNS, *columns])
    if {*table["dictionary"], *table["run"]} != {features.labels["dictionary"], features.labels["run"]}:
        raise UserError(f"{file}: it is of another run than the features; run the rule 'geometry' again")
    return table


def norms_as_drawn(features: Features, sites: SiteAxis) -> NDArray[np.float64]:
    """Put the normalised norms of features into the order of the axis (shape: [L, S])."""
    return features.norms[:, [features.sites.index(site) for site in sites.sites]]


def sample_norms(features: Features, sites: SiteAxis, settings: DecoderNormsFigure) -> pd.DataFrame:
    """Lay out the norms of a sample, from the top to the bottom of the heatmap, as panel `norms`.

    Args:
        features: of the run.
        sites: its site axis as drawn.
        settings: number of features and seed of the sample.
    """
    norms_LS = norms_as_drawn(features, sites)
    chosen = _sample(features.table, norms_LS, settings)
    known = {name: chosen[name].tolist() for name in ("class", "feature", "emergence_step")}
    return tidy(sites, norms_LS[chosen.index], {"panel": "norms", "row": list(range(len(chosen))), **known})


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


def tidy(sites: SiteAxis, values_NS: NDArray[np.float64], columns: dict[str, object]) -> pd.DataFrame:
    """Lay out values of N things at S sites as N x S rows, with what is known of each thing in `columns`."""
    things, places = np.indices(values_NS.shape).reshape(2, -1)
    table = pd.DataFrame(
        {name: value if isinstance(value, str) else np.asarray(value)[things] for name, value in columns.items()},
        index=range(things.size),
    )
    table[SITE] = pd.DataFrame(list(sites.sites), columns=SITE).iloc[places].to_numpy()
    return table.assign(step=table["step"].astype("int64"), normalised_norm=values_NS.ravel())


def class_means(
    sites: SiteAxis, norms_LS: NDArray[np.float64], classes: Mapping[str, NDArray[np.bool_]], name: str
) -> pd.DataFrame:
    """Average norms over the features of each class, with 95 % intervals by Student's t over features.

    Args:
        sites: the site axis as drawn.
        norms_LS: normalised norms in its order (shape: [L, S]).
        classes: which features are of a class, at least one of each (shape: [L] each).
        name: of the panel.

    Returns:
        A row for each class and site: `panel`, `class`, `features`, the columns of the site, `value`, `standard_error`,
        `low` and `high`, which are cut at 0 and 1 and which fewer than `FEWEST_FEATURES` do not have; one feature alone
        has no error.
    """
    norms = [norms_LS[of_class] for of_class in classes.values()]
    counts = [len(own_FS) for own_FS in norms]
    table = tidy(
        sites,
        np.array([own_FS.mean(axis=0) for own_FS in norms]),
        {"panel": name, "class": list(classes), "features": counts},
    )
    spreads = [own_FS.std(axis=0, ddof=1) if len(own_FS) > 1 else np.full(own_FS.shape[1], np.nan) for own_FS in norms]
    errors = np.concatenate(spreads) / np.sqrt(table["features"])
    groups = table["features"].where(table["features"] >= FEWEST_FEATURES)
    table = with_interval(table.assign(standard_error=errors, groups=groups), "normalised_norm", (0, 1))
    return table.drop(columns=["groups", "normalised_norm"])


def draw_band(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, colour: str) -> None:
    """Draw the interval of one class of `class_means`, where it has one."""
    if rows["low"].notna().all():
        sites.band(axis, rows["low"], rows["high"], colour)


def draw_norms(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, colormap: str) -> None:
    """Draw the norms of `sample_norms` as a heatmap, one feature a row; step 0 stands apart."""
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


def bracket(axis: Axes, rows: pd.DataFrame, totals: Mapping[str, int], upright: bool = False) -> None:
    """Name the classes at the left of the rows that they hold, with how many features they have in all.

    Args:
        axis: the heatmap.
        rows: as `sample_norms` returns them.
        totals: features of each class.
        upright: whether the words run upwards, which takes less room and leaves none for the size of the sample.
    """
    blocks = rows.groupby("class", sort=False)["row"].agg(["min", "max"])
    count = int(rows["row"].max()) + 1
    millimetre, height = 1 / size_of(axis)[0], size_of(axis)[1] * POINTS_PER_INCH / MM_PER_INCH
    size = 1.25 * mpl.rcParams["legend.fontsize"]
    total = sum(totals.values())
    gap = " " if upright else "\n"
    texts = [f"{name}{gap}features\n{totals[name]:,} of {total:,}" for name in blocks.index]
    lengths = [width_of(text) * POINTS_PER_INCH / MM_PER_INCH + size if upright else 4 * size for text in texts]
    shares = ((blocks["min"] + blocks["max"] + 1) / 2 / count).to_numpy(dtype=np.float64)
    places = spread(shares * height, np.array(lengths), 0, height) / height
    for (name, (first, last)), text, place in zip(blocks.iterrows(), texts, places, strict=True):
        ends = [1 - (first + 0.1) / count, 1 - (last + 0.9) / count]
        x = -2 * millimetre
        axis.plot(
            [x, x], ends, color=GROUPS[name], linewidth=2 * THICK, transform=axis.transAxes, clip_on=False,
            solid_capstyle="butt",
        )  # fmt: skip
        axis.text(
            -4 * millimetre, 1 - place, text, color=GROUPS[name], transform=axis.transAxes, ha="right", va="center",
            rotation=90 if upright else 0, multialignment="center" if upright else "right",
        )  # fmt: skip
    if not upright:
        axis.text(
            -4 * millimetre, -0.02, f"sample of {count:,}", color=GREY, transform=axis.transAxes, ha="right", va="top",
            fontsize="small",
        )  # fmt: skip


def norm_bar(
    axis: Axes,
    colormap: str,
    threshold: float,
    orientation: Literal["vertical", "horizontal"] = "vertical",
    label: str = "Normalised decoder norm",
) -> None:
    """Draw the colour bar of normalised norms, with tau."""
    mappable = ScalarMappable(Normalize(0, 1), f"{colormap}_r")
    bar = axis.figure.colorbar(mappable, cax=axis, orientation=orientation)
    ticks = {0.0: "0", threshold: f"{threshold:g} = τ", 1.0: "1"}
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.set_label(label)
    bar.outline.set_visible(False)
