"""Explained variance against L0: what a dictionary explains for how many active features."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.colours import shades
from ontogeny.config.figures import FigureSettings, FigureStyle
from ontogeny.errors import UserError
from ontogeny.figures.caption import Caption, among, counted, listed, rounded
from ontogeny.figures.l0_axis import limit_l0
from ontogeny.figures.style import CROSSCODERS, SINGLES, THIN, End, display_name, label_ends, page, panel, room
from ontogeny.figures.tables import SITE, over_seeds, read_metrics, sites_of
from ontogeny.site_names import site_names
from ontogeny.sites import Site

TITLE = "Sparsity and reconstruction"
DESCRIPTION = (
    "Explained variance of heldout activations against L0, the mean number of features active on a row. "
    "One line per dictionary and size, darker for more features, one point per sparsity. "
    "Filled markers pool all sites of a dictionary; open markers show a crosscoder at the one site of a plain SAE "
    "alone, which is the fair comparison between the two. "
    "Diamonds are the floor: dictionaries that read models at step 0 alone, of which none has learnt anything; with "
    "fewer sites than a crosscoder, a dictionary has more features for each. "
    "Where a run has several seeds, markers are means and bars reach from the lowest to the highest, hidden by the "
    "marker where they are shorter; with one seed there is no interval, and both are the value itself."
)

X, Y = "l0", "explained_variance"
FLOOR = ("#D55E00",)
"""Colour of dictionaries that read untrained models; initialisation has it everywhere."""
BEFORE = "\nbefore training"
MOST_FULL_NAMES = 4
"""Curves up to which each is named in full."""
MUCH_SHORTER = 0.8
"""Share of the largest L0 before which a line is led to its name."""
LEFT, BOTTOM, TOP = 13.0, 9.5, 2.5


def draw(tables: Sequence[Path], settings: FigureSettings, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `reconstruction.csv` of every run that is compared.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per dictionary, point of its sweep and scope, `floor` where all sites of
        the dictionary are at step 0, `family` the name of dictionaries that differ in size alone. `model`, `step` and
        `hook`, and `place`, their name in the figure, are empty where several `sites` are pooled; `_low` and `_high`
        are the extremes over `seeds`.

    Raises:
        UserError: a table is missing, damaged or empty, or has no run with both measures.
    """
    numbers = points(read_metrics(tables))
    figure = page(settings)
    curves = list(_curves(numbers))
    ends = [curve.end(brief=len(curves) > MOST_FULL_NAMES) for curve in curves]
    right = room((end.text for end in ends), style)
    axis = panel(figure, LEFT, BOTTOM, settings.width - LEFT - right, settings.height - BOTTOM - TOP)
    for curve in curves:
        _plot(axis, curve)
    _limits(axis, numbers)
    last = MUCH_SHORTER * numbers[X].max()
    label_ends(axis, [_level(axis, end) if end.x < last else end for end in ends])
    return figure, numbers


def points(metrics: pd.DataFrame) -> pd.DataFrame:
    """Summarise runs over seeds, pooled and at the sites that have a plain SAE.

    Args:
        metrics: as `read_metrics` returns it.
    """
    sites = {name: sites_of(table) for name, table in metrics.groupby("dictionary", sort=False)}
    references = dict.fromkeys(found[0] for found in sites.values() if len(found) == 1)
    table = over_seeds(metrics, (X, Y)).dropna(subset=[X, Y])
    table.insert(1, "sites", table["dictionary"].map({name: len(found) for name, found in sites.items()}))
    table.insert(2, "floor", table["dictionary"].map({name: untrained(found) for name, found in sites.items()}))
    table.insert(3, "family", table["dictionary"].map(_families(metrics, sites)))
    pooled, single = table["model"] == "", table["sites"] == 1
    shared = np.array([Site(*site) in references for site in table[SITE].itertuples(index=False)], dtype=bool)
    chosen = table[np.where(single, ~pooled, pooled | shared)]
    if chosen.empty:
        raise UserError(f"--tables: no run has both {X!r} and {Y!r}; expected reconstruction.csv of every run")
    ranks = chosen["dictionary"].map({name: rank for rank, name in enumerate(sites)})
    ordered = chosen.assign(rank=ranks).sort_values(["rank", "latents", *SITE, X, "point"], ignore_index=True)
    trained = list(dict.fromkeys(site for found in sites.values() if not untrained(found) for site in found))
    names = dict(zip(trained, site_names(trained), strict=True)) if trained else {}
    places = [names.get(Site(*site), "") for site in ordered[SITE].itertuples(index=False)]
    ordered.insert(ordered.columns.get_loc("hook") + 1, "place", places)
    ordered["step"] = ordered["step"].astype("Int64").where(ordered["step"] >= 0)
    return ordered.drop(columns="rank")


def untrained(sites: Sequence[Site]) -> bool:
    """Tell whether no site is of a model that has learnt anything: step 0 is before training."""
    return all(site.step == 0 for site in sites)


class Curve(NamedTuple):
    """One line: a dictionary of one size, pooled or at one site."""

    points: pd.DataFrame
    """Its rows of `points`, by L0."""
    name: str
    """Dictionary, and latents where sizes differ."""
    scope: str
    """At which sites it holds."""
    colour: str
    """By kind of dictionary, darker for more latents of dictionaries that differ in size alone."""
    marker: str
    """Circles for several sites, squares for one, diamonds for models before training."""
    floor: bool
    """Whether it is of models that were never trained."""
    whole: bool
    """Whether all its sites are pooled; else the markers are open."""

    def end(self, brief: bool) -> End:
        """Its last point, named; in brief, an open curve has the name of the filled one by its colour."""
        last = self.points.iloc[-1]
        label = f"{self.name}\n{self.scope}"
        if brief and not self.floor:
            label = self.name if self.whole else self.scope
        elif brief:
            label = label.removesuffix(BEFORE)
        return End(last[X], last[Y], label, self.colour)


def _curves(numbers: pd.DataFrame) -> Iterator[Curve]:
    several_sizes = numbers["latents"].nunique() > 1
    ranks = dict.fromkeys((FLOOR, SINGLES, CROSSCODERS), 0)
    for family, of_family in numbers.groupby("family", sort=False):
        count, floor = int(of_family["sites"].iloc[0]), bool(of_family["floor"].iloc[0])
        palette = FLOOR if floor else SINGLES if count == 1 else CROSSCODERS
        sizes = sorted(of_family["latents"].unique())
        colours = dict(zip(sizes, shades(palette[ranks[palette] % len(palette)], len(sizes)), strict=True))
        ranks[palette] += 1
        for (latents, model, *_), rows in of_family.groupby(["latents", *SITE], sort=False, dropna=False):
            name = display_name(str(family))
            if several_sizes:
                name += f"\n{counted(int(latents), 'latent')}"
            scope = f"at {rows['place'].iloc[0]}" if model else f"all {count} sites"
            if floor:
                scope = f"floor, {counted(count, 'site')}{BEFORE}"
            whole = not model or count == 1
            yield Curve(rows, name, scope, colours[latents], "D" if floor else "s" if count == 1 else "o", floor, whole)


def _families(metrics: pd.DataFrame, sites: Mapping[str, Sequence[Site]]) -> dict[str, str]:
    """Name what dictionaries share that differ in size alone: `crosscoder-512` of 512 latents is a `crosscoder`.

    Dictionaries of one size, or over other sites, would be drawn as one line or one colour: they keep their names.
    """
    members: dict[str, dict[str, set[int]]] = {}
    for name in sites:
        sizes = {int(latents) for latents in metrics.loc[metrics["dictionary"] == name, "latents"]}
        family = name.removesuffix(f"-{max(sizes)}") if len(sizes) == 1 else name
        members.setdefault(family, {})[name] = sizes
    result = {}
    for family, found in members.items():
        apart = len(set().union(*found.values())) == sum(map(len, found.values()))
        alike = apart and len({frozenset(sites[name]) for name in found}) == 1
        result.update({name: family if alike else name for name in found})
    return result


def _plot(axis: Axes, curve: Curve) -> None:
    x, y = curve.points[X], curve.points[Y]
    bars = [
        np.array([at - curve.points[f"{name}_low"], curve.points[f"{name}_high"] - at]) for name, at in ((X, x), (Y, y))
    ]
    seeds = curve.points["seeds"].max() > 1
    axis.errorbar(
        x, y, bars[1] if seeds else None, bars[0] if seeds else None, color=curve.colour, marker=curve.marker,
        markerfacecolor=curve.colour if curve.whole else "white", linestyle="-" if curve.whole else (0, (4, 2)),
        elinewidth=THIN, zorder=3,
    )  # fmt: skip


def _level(axis: Axes, end: End) -> End:
    """Lead a level from the end of a line to the right of the panel, where its name stands."""
    right = axis.get_xlim()[1]
    axis.plot([end.x, right], [end.y, end.y], color=end.colour, linestyle=":", linewidth=THIN)
    return end._replace(x=right)


def _limits(axis: Axes, numbers: pd.DataFrame) -> None:
    """Give L0 a log axis, unless a run has none, and both axes their names and a margin."""
    low, high = float(numbers[f"{X}_low"].min()), float(numbers[f"{X}_high"].max())
    limit_l0(axis, low, high)
    bottom, top = float(numbers[f"{Y}_low"].min()), float(numbers[f"{Y}_high"].max())
    margin = max(0.08 * (top - bottom), 0.01)
    axis.set_ylim(bottom - margin, top + margin)
    axis.locator_params(axis="y", nbins=6)
    axis.set_ylabel("Explained variance")


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    parts = []
    for curve in _curves(numbers):
        ends = curve.points.iloc[[0, -1] if len(curve.points) > 1 else [0]]
        values = [f"{rounded(point[Y])} at L0 {rounded(point[X])}" for _, point in ends.iterrows()]
        parts.append(
            f"{' to '.join(values)} ({curve.name.replace(chr(10), ', ')}, {curve.scope.replace(chr(10), ' ')})"
        )
    runs = numbers.drop_duplicates(["dictionary", "point"]).groupby("dictionary", sort=False)["seeds"].sum()
    return Caption(
        TITLE,
        DESCRIPTION,
        f"Explained variance: {'; '.join(parts)}.",
        listed([f"{counted(int(count), 'run')} of {name}" for name, count in runs.items()]),
        among(numbers["tokens"].astype(int).tolist(), "heldout row"),
    )
