"""What the figures of tasks share: their tables, the names of tasks, and what is above chance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.config.figures import TasksFigure
from ontogeny.errors import UserError
from ontogeny.figures.caption import counted
from ontogeny.figures.student import with_interval
from ontogeny.figures.style import GREY, page, panel
from ontogeny.figures.tables import SITE, read_table, sites_of

TASKS = {
    "agreement": ("Agreement", "The nation | is"),
    "agreement_prepositional": ("Agreement across a phrase", "The nation near the ports | is"),
    "agreement_relative": ("Agreement across a clause", "The nation that the ports helped | is"),
    "indirect_object": ("Indirect object", "When Cuba and Spain met, Cuba sent the land to | Spain"),
    "induction": ("Induction", "random tokens, and some of them again"),
}
"""Tasks in order: what they are called, and an example."""

KINDS = {
    "tasks": (
        "dictionary", "run", *SITE, "task", "metric", "value", "standard_error", "chance", "items", "dropped",
        "groups",
    ),
    "attribution": (
        *SITE, "task", "feature", "rank", "integrated_gradients", "standard_error", "activation_x_gradient", "groups",
    ),
    "ablations": (*SITE, "task", "ranking", "features", "k", "value", "standard_error", "groups"),
}  # fmt: skip
"""Tables, and the columns that are read."""

TOP, HEAD = 10.0, 8.0
"""Millimetres above the first row of panels, and above each other one."""


def read_tables(files: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Read tables of one run, which may span several models, by their kind.

    Raises:
        UserError: a table is missing or damaged, or they are of several runs.
    """
    tables = {}
    for kind, columns in KINDS.items():
        own = [file for file in files if file.name.startswith(f"{kind}-")]
        if own:
            parts = [read_table(file, columns, may_be_empty=kind != "tasks") for file in own]
            tables[kind] = pd.concat(parts, ignore_index=True)
    if "tasks" not in tables:
        raise UserError("--tables: no tasks-<model>.csv was named; expected the tables of one run")
    runs = tables["tasks"][["dictionary", "run"]].drop_duplicates()
    if len(runs) > 1:
        names = ", ".join("/".join(run) for run in runs.itertuples(index=False))
        raise UserError(f"--tables: they are of {names}; expected the tables of one run")
    return tables


def scores(tasks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Choose one metric of the table of tasks, with its interval."""
    return with_interval(tasks[tasks["metric"] == metric])


def right_at_the_end(tasks: pd.DataFrame, task: str) -> float:
    """Find the share of right items at the last site of the table of tasks; not a number where it was not measured."""
    rows = tasks[(tasks["task"] == task) & (tasks["metric"] == "accuracy")].set_index(SITE)["value"]
    sites = sites_of(tasks)
    return float(rows.get(tuple(sites[-1]), float("nan")))


def above_from(rows: pd.DataFrame) -> int | None:
    """Find the first row from which the interval stays above chance; rows are of one task, in order of sites."""
    above = (rows["low"] > rows["chance"]).to_numpy()
    first = len(above) - int(np.cumprod(above[::-1]).sum())
    return first if first < len(above) else None


def verdict(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """Say whether a task is done: rows are of one task, one for each of the sites that are named."""
    if rows["value"].isna().all():
        return "not measured"
    first = above_from(rows)
    if first == 0:
        return "above chance everywhere"
    if first is not None:
        return f"above chance from {names[first]} on"
    last = rows.iloc[-1]
    return f"below chance at {names[-1]}" if last["high"] < last["chance"] else f"not above chance at {names[-1]}"


def heading(axis: Axes, task: str, rows: pd.DataFrame, right: float, names: Sequence[str]) -> None:
    """Write above a panel what the task is, on how many items, and whether it is done.

    Args:
        axis: the first panel of a row.
        task: name of the task.
        rows: its logit difference, one row for each of the sites that are named.
        right: share of items that are right at the last site.
        names: names of the sites.
    """
    name, example = TASKS[task]
    row = rows.iloc[0]
    dropped = f" ({int(row['dropped']):,} left out)" if row["dropped"] else ""
    facts = f"{counted(int(row['items']), 'item')}{dropped}, {verdict(rows, names)}"
    share = f", {100 * right:.0f} % right at the end" if np.isfinite(right) else ""
    look: dict[str, Any] = {"textcoords": "offset points", "va": "baseline"}
    title = axis.annotate(name, (0, 1), (0, 4), xycoords="axes fraction", fontweight="bold", **look)
    axis.annotate(f"{example}; {facts}{share}", (1, 0), (5, 1.4), xycoords=title, color=GREY, fontsize="small", **look)


def column_title(axis: Axes, letter: str, text: str, group: str = "") -> None:
    """Write above the heading of the first row what the panels of a column show, and above that what a group shows."""
    for words, left, up, weight in ((letter, 0, 17, "bold"), (text, 9, 17, "normal"), (group, 0, 27, "normal")):
        axis.annotate(
            words, (0, 1), (left, up), xycoords="axes fraction", textcoords="offset points", fontweight=weight
        )


def nothing_to_draw(axis: Axes) -> None:
    """Say in an empty panel that a task has too few items."""
    axis.text(
        0.5, 0.5, "too few items", transform=axis.transAxes, color=GREY,
        fontsize="small", ha="center", va="center",
    )  # fmt: skip
    axis.set_yticks([])


def grid(
    settings: TasksFigure, bottom: float, lefts: Sequence[float], widths: Sequence[float], top: float = TOP
) -> tuple[Figure, list[list[Axes]]]:
    """Lay out a row of panels for each task, with a heading above each row, and `top` millimetres above the first."""
    figure = page(settings)
    rows = len(TASKS)
    height = (settings.height - bottom - top - (rows - 1) * HEAD) / rows
    return figure, [
        [
            panel(figure, left, bottom + (rows - 1 - row) * (height + HEAD), width, height)
            for left, width in zip(lefts, widths, strict=True)
        ]
        for row in range(rows)
    ]
