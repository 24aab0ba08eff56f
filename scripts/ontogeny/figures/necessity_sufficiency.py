"""Tasks without the features that are attributed most, and with these alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ontogeny.config.figures import FigureStyle, TasksFigure
from ontogeny.figures.caption import Caption, among, listed, rounded
from ontogeny.figures.style import CROSSCODERS, GREY, INK, LIGHT, THIN, End, label_ends, room
from ontogeny.figures.tables import SITE, sites_of
from ontogeny.figures.tasks import (
    TASKS,
    above_from,
    column_title,
    grid,
    heading,
    nothing_to_draw,
    read_tables,
    right_at_the_end,
    scores,
    with_interval,
)  # fmt: skip
from ontogeny.site_names import site_names, step_name
from ontogeny.sites import Site

TITLE = "Features that tasks need, and that are enough for them"
DESCRIPTION = (
    "Logit of the right word minus that of the wrong one when the first k features are ablated, and when they alone "
    "are kept, while bias and error of the dictionary stay. Features are ranked by their attribution (integrated "
    "gradients), by what they add to the site (activation), or by chance among those that fire; each half of the "
    "items is measured with the ranking of the other half. Lines across panels: the model as it is (clean), with no "
    "feature kept (no features), and chance. Shown are the first site from which a task stays above chance, and the "
    "last site. Bands are 95 % intervals over groups of items, by Student's t."
)

LEFT, GAP, GUTTER = 13.0, 4.0, 2.0
LOOKS: dict[str, dict[str, Any]] = {
    "random": {"color": "#8C8C8C", "linestyle": ":", "marker": "^"},
    "activation": {"color": INK, "linestyle": "--", "marker": "s"},
    "attribution": {"color": CROSSCODERS[0], "linestyle": "-", "marker": "o"},
}
"""How each ranking is drawn."""
KINDS = ("ablated", "kept")
DRAWN = ["task", *SITE, "features", "ranking", "k", "value", "low", "high", "items", "groups", "dropped", "chance"]


def draw(tables: Sequence[Path], settings: TasksFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `tasks-<model>.csv` and `ablations-<model>.csv` of one run, for each of its models.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per task, site, ranking, kind (`ablated` or `kept`) and k; the rankings
        `clean` and `no features` are the lines across.

    Raises:
        UserError: a table is missing or damaged, or they are of several runs.
    """
    found = read_tables(tables)
    numbers = values(found)
    sites = sites_of(numbers)
    columns = [(site, kind) for site in sites for kind in KINDS]
    middle, right = (room(names, style) for names in (("clean", "no features", "chance"), LOOKS))
    half = len(columns) // 2
    width = (settings.width - LEFT - right - middle - GUTTER - GAP * (len(columns) - 2)) / len(columns)
    lefts = [LEFT + n * (width + GAP) + (n >= half) * (middle + GUTTER - GAP) for n in range(len(columns))]
    figure, panels = grid(settings, 9.5, lefts, [width] * len(columns))
    every = scores(found["tasks"], "logit_difference").sort_values(SITE)
    names = dict(zip(sites_of(every), site_names(sites_of(every)), strict=True))
    for task, axes in zip(TASKS, panels, strict=True):
        rows = numbers[numbers["task"] == task]
        all_sites = every[every["task"] == task]
        heading(axes[0], task, all_sites, right_at_the_end(found["tasks"], task), site_names(sites_of(all_sites)))
        for place, (axis, (site, kind)) in enumerate(zip(axes, columns, strict=True)):
            own = rows[rows[SITE].eq(list(site)).all(axis=1) & rows["features"].isin([kind, "all"])]
            _draw_panel(axis, own, kind)
            _share(axis, rows, place, task == list(TASKS)[-1])
            if task == next(iter(TASKS)):
                column_title(axis, "abcd"[place], f"k {kind}, {names[site]}")
        axes[0].set_ylabel("Logit difference")
        _name_levels(axes[half - 1], rows[rows[SITE].eq(list(columns[half - 1][0])).all(axis=1)])
        _name_curves(axes[-1], rows[rows[SITE].eq(list(sites[-1])).all(axis=1)])
    return figure, numbers


def values(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Choose what is drawn, with the columns `DRAWN`, dictionary and run.

    Args:
        tables: as `read_tables` returns them.
    """
    clean = scores(tables["tasks"], "logit_difference")
    across = [clean.assign(ranking="clean"), scores(tables["tasks"], "without_features").assign(ranking="no features")]
    measured = with_interval(tables["ablations"])
    numbers = pd.concat([*(part.assign(features="all") for part in across), measured], ignore_index=True)
    shown = pd.DataFrame(shown_sites(clean), columns=SITE)
    numbers = numbers.reindex(columns=["dictionary", "run", *DRAWN]).merge(shown, on=SITE)
    by_task = numbers["task"].map({task: place for place, task in enumerate(TASKS)})
    numbers = numbers.assign(number=by_task).sort_values(["number", *SITE, "features", "ranking", "k"])
    return numbers.astype({"k": "Int64"}).drop(columns="number").reset_index(drop=True)


def shown_sites(clean: pd.DataFrame) -> list[Site]:
    """Choose the first site from which some task stays above chance, or else the middle one, and the last site."""
    sites = sites_of(clean)
    order = {site: place for place, site in enumerate(sites)}
    firsts = []
    for _, rows in clean.dropna(subset="value").groupby("task", sort=False):
        place = [order[Site(*site)] for site in rows[SITE].itertuples(index=False)]
        first = above_from(rows.assign(place=place).sort_values("place"))
        firsts += [] if first is None else [first]
    first = min(firsts, default=len(sites) // 2)
    return list(dict.fromkeys([sites[first], sites[-1]]))


def _draw_panel(axis: Axes, rows: pd.DataFrame, kind: str) -> None:
    """Draw one line a ranking, and the lines across."""
    curves = rows[rows["features"] == kind]
    if curves.empty:
        nothing_to_draw(axis)
        return
    for ranking, look in LOOKS.items():
        own = curves[curves["ranking"] == ranking]
        x = np.log10(own["k"].to_numpy(dtype=np.float64))
        axis.fill_between(x, own["low"], own["high"], color=look["color"], alpha=0.15, linewidth=0)
        axis.plot(x, own["value"], markersize=2, markeredgewidth=0, **look)
    axis.axhline(0, color=LIGHT, linewidth=THIN, zorder=0)
    for ranking, colour in (("clean", INK), ("no features", GREY)):
        axis.axhline(rows.loc[rows["ranking"] == ranking, "value"].iloc[0], color=colour, linewidth=THIN, zorder=1)


def _share(axis: Axes, rows: pd.DataFrame, place: int, is_lowest: bool) -> None:
    """Give the panels of a row one scale, and name its lines at the right end."""
    if rows["value"].isna().all():
        axis.set_xticks([])
        return
    ks = rows["k"].dropna().unique().astype(float)
    reach = 0.03 * np.log10(ks.max() / ks.min()) + 0.05
    axis.set_xlim(np.log10(ks.min()) - reach, np.log10(ks.max()) + reach)
    decades = [k for k in (1, 10, 100, 1_000, 10_000) if ks.min() <= k <= ks.max()] or sorted(ks)
    axis.xaxis.set_major_locator(FixedLocator(np.log10(decades).tolist()))
    axis.set_xticklabels([step_name(int(k)) for k in decades] if is_lowest else [])
    axis.xaxis.set_minor_locator(NullLocator())
    if is_lowest:
        axis.set_xlabel("Features, k")
    low, high = min(rows["low"].min(), 0), max(rows["high"].max(), 0)
    axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axis.locator_params(axis="y", nbins=4)
    if place:
        axis.tick_params(labelleft=False)


def _name_levels(axis: Axes, rows: pd.DataFrame) -> None:
    """Name the lines that lead across the panel in the middle of a row."""
    levels = rows[rows["features"] == "all"].dropna(subset="value").set_index("ranking")["value"]
    if len(levels):
        named = {"clean": INK, "no features": GREY}
        ends = [End(axis.get_xlim()[1], levels[name], name, colour) for name, colour in named.items()]
        label_ends(axis, [*ends, End(axis.get_xlim()[1], 0.0, "chance", GREY)])


def _name_curves(axis: Axes, rows: pd.DataFrame) -> None:
    """Name the rankings in the last panel of a row."""
    kept = rows[rows["features"] == KINDS[-1]]
    last = kept[kept["k"] == kept["k"].max()].set_index("ranking")
    if len(last):
        x = axis.get_xlim()[1]
        label_ends(axis, [End(x, last["value"][name], name, str(look["color"])) for name, look in LOOKS.items()])


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    last = sites_of(numbers)[-1]
    parts = []
    for task, (name, _) in TASKS.items():
        rows = numbers[(numbers["task"] == task) & numbers[SITE].eq(list(last)).all(axis=1)]
        if rows["value"].isna().all():
            parts.append(f"{name}: too few items")
            continue
        across = rows[rows["features"] == "all"].set_index("ranking")["value"]
        curves = rows[rows["features"] != "all"]
        k = curves["k"].max()
        ends = curves[curves["k"] == k].set_index(["features", "ranking"])["value"]
        said = [
            f"{rounded(ends[kind, 'attribution'])} {kind} ({rounded(ends[kind, 'random'])} by chance)" for kind in KINDS
        ]
        parts.append(
            f"{name}: {rounded(across['clean'])} clean, {rounded(across['no features'])} without features; "
            f"first {k:,} features {listed(said)}"
        )
    first = numbers.iloc[0]
    items = numbers.loc[numbers["ranking"] == "clean", "items"].astype(int).tolist()
    finding = f"At {site_names(sites_of(numbers))[-1]}. {'. '.join(parts)}."
    return Caption(
        TITLE, DESCRIPTION, finding, f"run {first['run']} of {first['dictionary']}", among(items, "item") + " a task"
    )
