"""Tasks at every checkpoint, and the features of a dictionary that do most for them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.colours import shades
from ontogeny.config.figures import FigureStyle, TasksFigure
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, among, rounded
from ontogeny.figures.student import with_interval
from ontogeny.figures.style import CROSSCODERS, GREY, INK, LIGHT, THIN, End, label_ends, room
from ontogeny.figures.tables import SITE, sites_of
from ontogeny.figures.tasks import (
    TASKS,
    column_title,
    grid,
    heading,
    nothing_to_draw,
    read_tables,
    right_at_the_end,
    scores,
    verdict,
)  # fmt: skip
from ontogeny.site_names import site_names
from ontogeny.sites import Site

TITLE = "Tasks, and the features that do most for them"
DESCRIPTION = (
    "What a language model does in tasks with a right and a wrong next word, and which features it does that with. "
    "(a) Logit of the right word minus that of the wrong one; items come in groups in which chance, or a liking for "
    "a word, gives 0. "
    "(b) Attribution of features to that difference at each site, by integrated gradients from all features ablated "
    "to all present, while bias and error of the dictionary stay; the four features that reach most, with a marker "
    "where a feature is the first of all. They are chosen on the very items that their intervals are over, which "
    "favours features that did well by chance. Bands and bars are 95 % intervals over groups of items, by Student's t. "
    "Training steps are on a log axis with step 0 in a slot of its own."
)

LEFT, GUTTER = 13.0, 12.0
SHOWN = 4
"""Features drawn for each task."""
DASHES = ("-", "--", "-.", ":")
DRAWN = [
    *("panel", "task", "feature", *SITE, "value", "low", "high", "activation_x_gradient"),
    *("leads", "items", "groups", "dropped", "chance"),
]


def draw(tables: Sequence[Path], settings: TasksFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `tasks-<model>.csv` and `attribution-<model>.csv` of one run, for each of its models.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per panel (`task`, `accuracy`, `features`), task, feature and site. The
        `value` of features is their integrated gradient; the first-order attribution by `activation_x_gradient` stands
        beside it and is not drawn.

    Raises:
        UserError: a table is missing or damaged, or they are of several runs.
    """
    found = read_tables(tables)
    numbers = values(found)
    sites = site_axis(sites_of(numbers))
    labels = [f"#{feature}" for feature in numbers["feature"].dropna().astype(int)]
    rooms = room(["chance"], style), room([*labels, "#0000"], style)
    width = (settings.width - 2 * LEFT - GUTTER - sum(rooms)) / 2 + LEFT / 2
    lefts = LEFT, LEFT + width + rooms[0] + GUTTER
    figure, panels = grid(settings, sites.depth(style), lefts, (width, settings.width - lefts[1] - rooms[1]))
    for number, (task, (left, right)) in enumerate(zip(TASKS, panels, strict=True)):
        rows = numbers[numbers["task"] == task]
        for axis in (left, right):
            sites.mark(axis)
            if number < len(panels) - 1:
                axis.set_xlabel("")
                axis.tick_params(labelbottom=False)
        own = rows[rows["panel"] == "task"]
        heading(left, task, own, right_at_the_end(found["tasks"], task), site_names(sites.sites))
        _draw_task(left, sites, own)
        _draw_features(right, sites, rows[rows["panel"] == "features"])
    for axis, name, title in zip(panels[0], "ab", ("The model", "Features that lead"), strict=True):
        column_title(axis, name, title)
    return figure, numbers


def values(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Choose what is drawn, with the columns `DRAWN`, dictionary and run.

    Args:
        tables: as `read_tables` returns them.
    """
    measured = [
        scores(tables["tasks"], metric).assign(panel=panel)
        for metric, panel in (("logit_difference", "task"), ("accuracy", "accuracy"))
    ]
    features = with_interval(tables["attribution"], "integrated_gradients")
    chosen = [
        part[part["feature"].isin(part.groupby("feature")["value"].max().nlargest(SHOWN).index)]
        for _, part in features.groupby("task", sort=False)
    ]
    shown = pd.concat(chosen) if chosen else features
    shown = shown.assign(panel="features", leads=shown["rank"] == 1)
    numbers = pd.concat([*measured, shown], ignore_index=True).reindex(columns=["dictionary", "run", *DRAWN])
    order = {site: place for place, site in enumerate(sites_of(numbers))}
    place = [order[Site(*site)] for site in numbers[SITE].itertuples(index=False)]
    by_task = numbers["task"].map({task: place for place, task in enumerate(TASKS)})
    numbers = numbers.assign(site=place, number=by_task).sort_values(["panel", "number", "feature", "site"])
    return numbers.astype({"feature": "Int64"}).drop(columns=["site", "number"]).reset_index(drop=True)


def _draw_task(axis: Axes, sites: SiteAxis, rows: pd.DataFrame) -> None:
    axis.set_ylabel("Logit difference")
    if rows["value"].isna().all():
        nothing_to_draw(axis)
        return
    axis.axhline(rows["chance"].iloc[0], color=LIGHT, linewidth=THIN, zorder=0)
    sites.band(axis, rows["low"], rows["high"], INK)
    sites.line(axis, rows["value"], {"color": INK, "marker": "o", "markersize": 2})
    axis.locator_params(axis="y", nbins=4)
    axis.set_ylim(axis.get_ylim())
    label_ends(axis, [End(axis.get_xlim()[1], rows["chance"].iloc[0], "chance", GREY)])


def _draw_features(axis: Axes, sites: SiteAxis, rows: pd.DataFrame) -> None:
    axis.set_ylabel("Attribution (logits)")
    if rows.empty:
        nothing_to_draw(axis)
        return
    axis.axhline(0, color=LIGHT, linewidth=THIN, zorder=0)
    ends = []
    order = rows.groupby("feature")["value"].max().sort_values().index
    looks = zip(order, shades(CROSSCODERS[0], SHOWN)[-len(order) :], DASHES[: len(order)][::-1], strict=True)
    for feature, colour, dashes in looks:
        # Of two models, each has its own leading features listed.
        own = rows[rows["feature"] == feature].set_index(SITE).reindex(pd.MultiIndex.from_tuples(sites.sites))
        sites.line(axis, own["value"], {"color": colour, "linestyle": dashes})
        leads = own["leads"].eq(True).to_numpy()
        axis.vlines(sites.positions[leads], own["low"][leads], own["high"][leads], color=colour, linewidth=THIN)
        axis.plot(sites.positions[leads], own["value"][leads], "o", color=colour)
        last = np.flatnonzero(own["value"].notna())[-1]
        ends.append(End(sites.positions[last], own["value"].iloc[last], f"#{feature}", colour))
    axis.locator_params(axis="y", nbins=4)
    axis.set_ylim(axis.get_ylim())
    label_ends(axis, ends)


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    names = site_names(sites_of(numbers))
    parts = []
    for task, (name, _) in TASKS.items():
        rows = numbers[numbers["task"] == task]
        own, features = rows[rows["panel"] == "task"], rows[rows["panel"] == "features"]
        text = f"{name}: {verdict(own, names)}"
        if own["value"].notna().any():
            last = own.iloc[-1]
            text += (
                f" (at the end {rounded(last['value'])}, 95 % from {rounded(last['low'])} to {rounded(last['high'])}"
            )
            ends = features[features["leads"] & features[SITE].eq(list(last[SITE])).all(axis=1)]
            led = [f"; first feature #{row['feature']}, {rounded(row['value'])}" for _, row in ends.iterrows()]
            text += "".join(led) + ")"
        parts.append(text)
    first = numbers.iloc[0]
    items = numbers.loc[numbers["panel"] == "task", "items"].astype(int).tolist()
    finding = f"Logit difference by task. {'; '.join(parts)}."
    return Caption(
        TITLE, DESCRIPTION, finding, f"run {first['run']} of {first['dictionary']}", among(items, "item") + " a task"
    )
