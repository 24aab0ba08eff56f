"""Tasks without the features that are attributed most, and with these alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ontogeny.colours import shades
from ontogeny.config.figures import FigureStyle, TasksFigure
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, among, listed, rounded
from ontogeny.figures.student import with_interval
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
)  # fmt: skip
from ontogeny.site_names import site_names, step_name
from ontogeny.sites import Site

TITLE = "Features that tasks need, and that are enough for them"
DESCRIPTION = (
    "Logit of the right word minus that of the wrong one when the first k features are ablated, and when they alone "
    "are kept, while bias and error of the dictionary stay. Features are ranked by their attribution (integrated "
    "gradients), by what they add to the site (activation), or by chance among those that fire; each half of the "
    "items is measured with the ranking of the other half. Lines across panels: the model as it is (clean), with no "
    "feature kept (no features), and chance. (a-d) The first site from which a task stays above chance, and the last "
    "site. (e) Every site, with the first k features by attribution ablated. Bands are 95 % intervals over groups of "
    "items, by Student's t."
)

LEFT, GAP, GUTTER, TOP = 13.0, 3.0, 2.0, 13.0
LOOKS: dict[str, dict[str, Any]] = {
    "random": {"color": "#8C8C8C", "linestyle": ":", "marker": "^"},
    "activation": {"color": INK, "linestyle": "--", "marker": "s"},
    "attribution": {"color": CROSSCODERS[0], "linestyle": "-", "marker": "o"},
}
"""How each ranking is drawn."""
KINDS = ("ablated", "kept")
DRAWN = [
    *("task", *SITE, "features", "ranking", "k", "value", "low", "high", "against_k"),
    *("items", "groups", "dropped", "chance"),
]


def draw(tables: Sequence[Path], settings: TasksFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `tasks-<model>.csv` and `ablations-<model>.csv` of one run, for each of its models.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and its numbers: one row per task, site, ranking, kind (`ablated` or `kept`) and k; the rankings
        `clean` and `no features` are the lines across. `against_k` says whether a site is drawn against k; of other
        sites the figure shows `clean`, and the least, a middle and the largest k ablated by attribution.

    Raises:
        UserError: a table is missing or damaged, or they are of several runs.
    """
    found = read_tables(tables)
    numbers = values(found)
    axis = site_axis(sites_of(numbers))
    shown = sites_of(numbers[numbers["against_k"]])
    columns = [(site, kind) for site in shown for kind in KINDS]
    figure, panels = _panels(settings, style, len(columns), axis, numbers)
    names = dict(zip(axis.sites, site_names(axis.sites), strict=True))
    for task, axes in zip(TASKS, panels, strict=True):
        rows, is_lowest = numbers[numbers["task"] == task], task == list(TASKS)[-1]
        clean = rows[rows["ranking"] == "clean"]
        heading(axes[0], task, clean, right_at_the_end(found["tasks"], task), list(names.values()))
        for own_axis, (site, kind) in zip(axes, columns, strict=False):
            own = rows[rows[SITE].eq(list(site)).all(axis=1) & rows["features"].isin([kind, "all"])]
            _draw_panel(own_axis, own, kind)
            _mark_ks(own_axis, rows, is_lowest)
        _draw_sites(axes[-1], axis, rows, is_lowest)
        _share(axes, rows)
        axes[0].set_ylabel("Logit difference")
        half = len(columns) // 2 - 1
        _name_levels(axes[half], rows[rows[SITE].eq(list(columns[half][0])).all(axis=1)])
        _name_curves(axes[-2], rows[rows[SITE].eq(list(shown[-1])).all(axis=1)])
        _name_ks(axes[-1], rows[rows[SITE].eq(list(shown[-1])).all(axis=1)])
    groups = [names[site] if kind == KINDS[0] else "" for site, kind in columns] + [f"every {axis.noun}"]
    kinds = [kind for _, kind in columns] + [KINDS[0]]
    for own_axis, name, kind, group in zip(panels[0], "abcde", kinds, groups, strict=False):
        column_title(own_axis, name, f"k {kind}", group)
    return figure, numbers


def _panels(
    settings: TasksFigure, style: FigureStyle, curves: int, sites: SiteAxis, numbers: pd.DataFrame
) -> tuple[Figure, list[list[Axes]]]:
    """Lay out the panels of curves, in two halves, and one over sites at the right, with room for names after each."""
    named = ("clean", "no features", "chance"), LOOKS, [f"k = {k:,}" for k in numbers["k"].dropna().unique()]
    rooms = [room(names, style) + GUTTER for names in named]
    width = (settings.width - LEFT - sum(rooms) + GUTTER - GAP * (curves - 2)) / (curves + 1)
    half, lefts = curves // 2, [LEFT]
    for place in range(1, curves + 1):
        after = {half: rooms[0], curves: rooms[1]}.get(place, GAP)
        lefts.append(lefts[-1] + width + after)
    return grid(settings, max(9.5, sites.depth(style)), lefts, [width] * (curves + 1), TOP)


def values(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Put the numbers of every site together, with the columns `DRAWN`, dictionary and run.

    Args:
        tables: as `read_tables` returns them.
    """
    clean = scores(tables["tasks"], "logit_difference")
    across = [clean.assign(ranking="clean"), scores(tables["tasks"], "without_features").assign(ranking="no features")]
    measured = with_interval(tables["ablations"])
    numbers = pd.concat([*(part.assign(features="all") for part in across), measured], ignore_index=True)
    numbers = numbers.reindex(columns=["dictionary", "run", *DRAWN])
    order = {site: place for place, site in enumerate(sites_of(clean))}
    sites = [Site(*site) for site in numbers[SITE].itertuples(index=False)]
    shown = shown_sites(clean)
    numbers = numbers.assign(
        against_k=[site in shown for site in sites],
        site=[order[site] for site in sites],
        number=numbers["task"].map({task: place for place, task in enumerate(TASKS)}),
    ).sort_values(["number", "site", "features", "ranking", "k"])
    return numbers.astype({"k": "Int64"}).drop(columns=["site", "number"]).reset_index(drop=True)


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


def _ablated_by_attribution(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["features"] == KINDS[0]) & (rows["ranking"] == "attribution")]


def _shades(rows: pd.DataFrame) -> dict[int, str]:
    """Choose the least, a middle and the largest k, with a colour for each, the darker the more features."""
    every = sorted(rows["k"].dropna().unique())
    ks = sorted({every[place] for place in (0, len(every) // 2, -1)}) if every else []
    return dict(zip(ks, shades(LOOKS["attribution"]["color"], len(ks)), strict=True))


def _draw_sites(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, is_lowest: bool) -> None:
    """Draw the model without the first k features, for some k, and as it is, over all sites."""
    sites.mark(axis)
    if not is_lowest:
        axis.set_xlabel("")
        axis.tick_params(labelbottom=False)
    if rows["value"].isna().all():
        nothing_to_draw(axis)
        return
    axis.axhline(0, color=LIGHT, linewidth=THIN, zorder=0)
    curves = _ablated_by_attribution(rows)
    for k, colour in _shades(rows).items():
        sites.line(axis, curves.loc[curves["k"] == k, "value"], {"color": colour})
    sites.line(axis, rows.loc[rows["ranking"] == "clean", "value"], {"color": INK, "linewidth": THIN})


def _share(axes: Sequence[Axes], rows: pd.DataFrame) -> None:
    """Give the panels of a row one scale."""
    if rows["value"].isna().all():
        return
    curves, lines = rows[rows["against_k"]], [_ablated_by_attribution(rows), rows[rows["ranking"] == "clean"]]
    ends = np.concatenate([curves[["low", "high"]].to_numpy().ravel(), *(part["value"] for part in lines), [0.0]])
    low, high = np.nanmin(ends), np.nanmax(ends)
    for place, axis in enumerate(axes):
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axis.locator_params(axis="y", nbins=4)
        axis.tick_params(labelleft=not place)


def _mark_ks(axis: Axes, rows: pd.DataFrame, is_lowest: bool) -> None:
    """Give a panel its axis of k."""
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


def _name_ks(axis: Axes, rows: pd.DataFrame) -> None:
    """Name the lines of the panel over sites."""
    last = _ablated_by_attribution(rows).set_index("k")["value"]
    if len(last):
        x, clean = axis.get_xlim()[1], rows.loc[rows["ranking"] == "clean", "value"].iloc[0]
        ends = [End(x, last[k], f"k = {k:,}", colour) for k, colour in _shades(rows).items()]
        label_ends(axis, [End(x, clean, "clean", INK), *ends])


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
