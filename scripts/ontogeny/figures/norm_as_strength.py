"""Is a decoder norm the strength of a concept? Norms against linear probes and latent scaling."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.config.figures import FigureStyle, NormAsStrengthFigure
from ontogeny.errors import UserError
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, counted, listed
from ontogeny.figures.correlation import coefficient, interval
from ontogeny.figures.style import CROSSCODERS, GREY, INK, SHADE, THICK, THIN, letter, page, panel, room
from ontogeny.figures.tables import SITE, read_table, sites_of
from ontogeny.figures.wilson import with_count_interval

TITLE = "Decoder norm as strength"
DESCRIPTION = (
    "What a small decoder norm means: a point is a feature at a site, its norm over the feature's largest. (a) R^2 "
    "of a linear probe (ridge regression, on heldout rows) that reads the feature's activation from the activations "
    "of the site, over the feature's best R^2. (b) Norm that latent scaling asks for, that of the feature's "
    "least-squares decoder given all other features, over the feature's largest norm; on the line, the decoder has "
    "it. Dots with bars are medians and quartiles of tenths of the axis; rho is Spearman's correlation, with a 95 % "
    "interval from draws of features. (c) Where the norm is low (grey ground), features that are gone (the probe "
    "reads much less than at best), faded (the probe reads them, and latent scaling agrees with the norm) and "
    "shrunk (the probe reads them, and latent scaling asks for much more). Features that no site reads are left "
    "out. In the table beside the figure, counts have a 95 % interval by Wilson's formula, which takes the features "
    "for a sample."
)

KINDS = {"gone": INK, "faded": GREY, "shrunk": "#E69F00"}
"""What a feature with a low norm can be, with colours that are apart in grey."""
PANELS = {"probe": "Probe $R^2$ / best of feature", "scaling": "Norm by latent scaling"}
"""Panels of points and what their axes say."""
TABLE = ("dictionary", "run", *SITE, "feature", "decoder_norm", "r2", "beta", "tokens")
COLUMNS = ["panel", "kind", "feature", *SITE, "norm", "value", "low", "high", "number", "dictionary", "run", "rows"]
THRESHOLDS = ("low_norm", "least_r2", "read", "shrinkage")
"""Settings that decide what is counted."""
BINS = 10
LEFT, TOP, GUTTER = 12.0, 6.5, 12.0


class Correlation(NamedTuple):
    """Spearman's correlation with its interval."""

    rho: float
    low: float
    high: float


def draw(tables: Sequence[Path], settings: NormAsStrengthFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `probes.csv` of one run.
        settings: size on paper, and thresholds.
        style: what all figures share.

    Returns:
        The figure, and what is drawn. Panels `probe` and `scaling` have a row for each bin (`number` points with median
        `value` and quartiles `low` and `high`, at its middle, `norm`); `<panel> points` a row for each point, with its
        `kind` where its norm is low; `<panel> correlation` rho and its interval over `number` features; `low` a row for
        each site and kind, `value` features of `number` with a low norm there; `read` how many features of `number`
        some site reads; `threshold` the settings that decide. Of counts, `low` and `high` are the 95 % interval.

    Raises:
        UserError: a table is missing, damaged or empty, no site reads any feature, or there is one site.
    """
    numbers = values(tables, settings)
    figure = page(settings)
    sites = site_axis(sites_of(numbers))
    bottom = sites.depth(style)
    labels = list(KINDS)
    width = (settings.width - LEFT - 2 * GUTTER - room(labels, style) - 2.0) / 3
    for place, name in enumerate((*PANELS, "low")):
        left = LEFT + place * (width + GUTTER)
        axis = panel(figure, left, bottom, width, settings.height - bottom - TOP)
        if name == "low":
            _draw_kinds(axis, numbers[numbers["panel"] == name], sites)
        else:
            _draw_points(axis, numbers, name, settings)
        letter(axis, "abc"[place])
    return figure, numbers


def values(tables: Sequence[Path], settings: NormAsStrengthFigure) -> pd.DataFrame:
    """Compute what is drawn, with the columns `COLUMNS`.

    Args:
        tables: as `draw` takes them.
        settings: thresholds.
    """
    if len(tables) != 1:
        raise UserError(f"--tables: {len(tables)} tables were named; expected probes.csv of one run")
    table = read_table(tables[0], TABLE)
    points, features = points_of(table, settings), table["feature"].nunique()
    if points.empty:
        raise UserError(
            f"{tables[0]}: no probe has an R^2 of {settings.least_r2:g} or more on heldout rows; lower "
            "figures.norm_as_strength.least_r2"
        )
    if points[SITE].drop_duplicates().shape[0] < 2:
        raise UserError(f"{tables[0]}: the run has one site; expected a dictionary over several")
    limits = {name: getattr(settings, name) for name in THRESHOLDS}
    read = pd.DataFrame({"panel": ["read"], "value": [points["feature"].nunique()], "number": [features]})
    parts = [
        with_count_interval(read, "value", "number"),
        pd.DataFrame({"panel": "threshold", "kind": limits.keys(), "value": limits.values()}),
    ]
    for name in PANELS:
        chosen = points.assign(value=points[name])
        parts += [_bins(chosen).assign(panel=name), chosen.assign(panel=f"{name} points")]
        found = spearman(chosen, settings.resamples, settings.seed)
        row = {"value": [found.rho], "low": [found.low], "high": [found.high], "number": [chosen["feature"].nunique()]}
        parts.append(pd.DataFrame({"panel": [f"{name} correlation"], **row}))
    parts.append(with_count_interval(_by_site(points), "value", "number").assign(panel="low"))
    numbers = pd.concat(parts, ignore_index=True)
    numbers[["dictionary", "run", "rows"]] = [*table[["dictionary", "run"]].iloc[0], int(table["tokens"].max())]
    numbers = numbers.reindex(columns=COLUMNS).astype({"feature": "Int64", "step": "Int64", "number": "Int64"})
    return numbers.fillna({"kind": "", "model": "", "hook": ""})


def points_of(table: pd.DataFrame, settings: NormAsStrengthFigure) -> pd.DataFrame:
    """Normalise a table of probes feature by feature, and say what features are where their norm is low.

    Returns:
        `feature`, the columns of the site, `norm`, `probe`, `scaling`, and `kind`, empty where the norm is not low.
    """
    of_feature = table.groupby("feature", sort=False)
    largest, best = of_feature["decoder_norm"].transform("max"), of_feature["r2"].transform("max")
    points = table[["feature", *SITE]].assign(
        norm=table["decoder_norm"] / largest, probe=table["r2"] / best, scaling=table["beta"] / largest
    )
    points = points[best >= settings.least_r2]
    read, asked = points["probe"] >= settings.read, points["scaling"] >= settings.shrinkage * points["norm"]
    kind = np.select([~read, asked], ["gone", "shrunk"], "faded")
    return points.assign(kind=np.where(points["norm"] <= settings.low_norm, kind, ""))


def spearman(points: pd.DataFrame, resamples: int, seed: int) -> Correlation:
    """Correlate the ranks of `norm` and `value`; features are drawn with replacement, each with all of its sites."""
    norm, value = (points[name].to_numpy(dtype=np.float64) for name in ("norm", "value"))
    unit = pd.factorize(points["feature"], sort=True)[0]
    return Correlation(coefficient(norm, value), *interval(norm, value, unit, resamples, seed))


def _bins(points: pd.DataFrame) -> pd.DataFrame:
    """Summarise points by tenths of the normalised norm; empty ones are left out."""
    place = np.minimum((points["norm"] * BINS).astype(int), BINS - 1)
    groups = points.groupby(place)["value"]
    quartiles = groups.quantile([0.25, 0.5, 0.75]).unstack()
    return pd.DataFrame(
        {
            "norm": (quartiles.index.to_numpy() + 0.5) / BINS,
            "value": quartiles[0.5].to_numpy(),
            "low": quartiles[0.25].to_numpy(),
            "high": quartiles[0.75].to_numpy(),
            "number": groups.size().to_numpy(),
        }
    )


def _by_site(points: pd.DataFrame) -> pd.DataFrame:
    """Count the kinds of features with a low norm at every site."""
    counts = pd.crosstab([points[name] for name in SITE], points["kind"]).reindex(columns=list(KINDS), fill_value=0)
    number = counts.sum(axis=1)
    parts = [pd.DataFrame({"kind": kind, "value": counts[kind], "number": number}).reset_index() for kind in KINDS]
    return pd.concat(parts, ignore_index=True)


def _draw_points(axis: Axes, numbers: pd.DataFrame, name: str, settings: NormAsStrengthFigure) -> None:
    points = numbers[numbers["panel"] == f"{name} points"]
    axis.set_xlim(0, 1.02)
    top = 1.02 if name == "probe" else max(1.1, float(np.quantile(points["value"], 0.995)))
    axis.set_ylim(min(0.0, float(np.quantile(points["value"], 0.005))), top)
    colour = CROSSCODERS[0]
    axis.plot(
        points["norm"], points["value"], ".", color=colour, markersize=1.5, markeredgewidth=0, alpha=0.35,
        rasterized=True, zorder=1,
    )  # fmt: skip
    if name == "scaling":
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=THIN, zorder=2)
    bins = numbers[numbers["panel"] == name]
    axis.vlines(bins["norm"], bins["low"], bins["high"], color=INK, linewidth=THICK, zorder=3)
    axis.plot(bins["norm"], bins["value"], "o", color=INK, markersize=3, zorder=3)
    axis.axvspan(0, settings.low_norm, color=SHADE, linewidth=0, zorder=0)
    axis.set_xlabel("Normalised decoder norm")
    axis.set_ylabel(PANELS[name])
    found = numbers[numbers["panel"] == f"{name} correlation"].iloc[0]
    text = f"$\\rho$ = {found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
    axis.annotate(
        text, (1, 1), (0, 2), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize="small",
        ha="right", va="bottom",
    )  # fmt: skip


def _draw_kinds(axis: Axes, rows: pd.DataFrame, sites: SiteAxis) -> None:
    """Stack the kinds of features with a low norm, site by site."""
    sites.mark(axis)
    order = pd.MultiIndex.from_tuples(sites.sites, names=SITE)
    bottom = np.zeros(len(order))
    left, right = sites.edges.T
    for kind, colour in KINDS.items():
        height = rows[rows["kind"] == kind].set_index(SITE)["value"].reindex(order).to_numpy()
        some = height > 0
        axis.bar(
            left[some], height[some], (right - left)[some], bottom[some], align="edge", color=colour,
            edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        bottom = bottom + height
    axis.set_ylim(0, 1.08 * max(bottom.max(), 1))
    axis.set_ylabel("Features with a low norm")
    axis.locator_params(axis="y", nbins=6, integer=True)
    totals = rows.groupby("kind")["value"].sum()
    for place, kind in enumerate(reversed(list(KINDS))):
        axis.annotate(
            f"{kind}\n{totals[kind]:,.0f}", (1, 1 - 0.17 * place), (4, 0), xycoords="axes fraction",
            textcoords="offset points", color=KINDS[kind], fontsize="small", va="top",
        )  # fmt: skip


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    said = {}
    for name in PANELS:
        found = numbers[numbers["panel"] == f"{name} correlation"].iloc[0]
        said[name] = f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
    read = numbers[numbers["panel"] == "read"].iloc[0]
    limit = numbers[numbers["panel"] == "threshold"].set_index("kind")["value"]
    kinds = numbers[numbers["panel"] == "low"].groupby("kind", sort=False)["value"].sum().astype(int)
    meaning = {
        "gone": f"gone (R^2 below {limit['read']:g} of the best)",
        "faded": "faded",
        "shrunk": f"shrunk (latent scaling asks for {limit['shrinkage']:g} times the norm or more)",
    }
    points = int((numbers["panel"] == "probe points").sum())
    finding = (
        f"Of {counted(int(read['number']), 'feature')}, some site reads {int(read['value']):,} (R^2 of "
        f"{limit['least_r2']:g} or more). Their normalised norms correlate with what probes read at {said['probe']} "
        f"and with the norm by latent scaling at {said['scaling']}. Of {counted(points, 'pair')} of feature and site, "
        f"{kinds.sum():,} have a norm of {limit['low_norm']:g} or less: "
        f"{listed([f'{count:,} {meaning[str(kind)]}' for kind, count in kinds.items()])}."
    )
    first = numbers.iloc[0]
    tokens = counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, DESCRIPTION, finding, f"run {first['run']} of {first['dictionary']}", tokens)
