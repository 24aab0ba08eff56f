"""When features emerge in one run, against when the same features emerge in others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ontogeny.colours import GROUPS
from ontogeny.config.figures import FigureStyle, RobustnessFigure
from ontogeny.errors import UserError
from ontogeny.evaluation.agreement import ALL, BOTH, EITHER, EMERGENT
from ontogeny.figures.axes import site_axis
from ontogeny.figures.caption import Caption, counted, listed, rounded
from ontogeny.figures.style import (
    GREY,
    INK,
    LIGHT,
    MM_PER_INCH,
    POINTS_PER_INCH,
    THIN,
    display_name,
    page,
    panel,
    room,
    size_of,
)
from ontogeny.figures.tables import read_table
from ontogeny.figures.wilson import wilson_interval
from ontogeny.sites import Site

TITLE = "Robustness of emergence steps"
DESCRIPTION = (
    "Emergence step of a feature in the reference run against that of the same feature in another run: under other "
    "checkpoints of the same model, or with another seed. Features are the same where each is the other's best match "
    "by decoder directions, whatever their norms, and their cosine is above the study's bound. A feature emerges at "
    "the first checkpoint where its decoder norm over its maximum over checkpoints is above tau, read from all "
    "checkpoints of its run and moved to the first checkpoint of both runs at or after it. The area of a disc goes "
    "with the logarithm of how many features it stands for: initialisation features of the reference, which are above "
    "tau at its first checkpoint, and emergent ones, in their colours; on the line the two steps are equal. Above each "
    "panel: features of the reference that are matched; of those the share with equal steps, beside what random "
    "pairing gives; Spearman's rank correlation of the steps with its 95 % bootstrap interval over features, for all "
    "and for those that emerge after the first checkpoint in both runs. The table beside the figure has bootstrap "
    "intervals of the shares with equal steps too, and of those matched by Wilson's formula, which takes the features "
    "for a sample. Training steps are on a log axis with step 0 "
    "in a slot of its own."
)

PAIRS = ("matched", "shared_step", "other_shared_step")
AGREEMENT = (
    *("dictionary", "run", "other", "other_run", "checkpoints"),
    *("group", "metric", "value", "low", "high", "features", "rows"),
)
SHARES = ("matched_share", "other_matched_share", "after_the_last_step")
"""Shares of features without an interval from draws of features."""
LEFT, BOTTOM, TOP, GUTTER, MARGIN = 13.0, 9.5, 20.5, 13.5, 2.0
COLUMNS = 3
"""Panels side by side; more go below."""
LINES = 5
"""Lines of text above a panel."""
SMALLEST, LARGEST = 5.0, 110.0
"""Areas, in square points, of discs of one feature and of a thousand."""
LEGEND = (1, 10, 100, 1000)
DRAWN = [
    *("panel", "other", "other_run", "group", "metric", "value", "low", "high", "features"),
    *("shared_step", "other_shared_step", "checkpoints", "dictionary", "run", "rows"),
]


def draw(tables: Sequence[Path], settings: RobustnessFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure, one panel for each run that is compared with the reference.

    Args:
        tables: `pairs.csv` of every comparison, then `agreement.csv` of every comparison in the same order.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: panel `steps` has a row per disc, whose `features` are as many; panel
        `agreement` a row per number of `agreement.csv`, of which some are written above the panels.

    Raises:
        UserError: a table is missing or damaged, or no features are matched in any of the comparisons.
    """
    numbers = values(tables)
    others = [rows for _, rows in numbers.groupby(["other", "other_run"], sort=False)]
    legend = room(["features"], style, 3 * MARGIN)
    columns = min(len(others), COLUMNS)
    lines = -(-len(others) // columns)
    figure = page(settings.model_copy(update={"height": settings.height * lines}))
    free = (settings.width - LEFT - legend - GUTTER * (columns - 1)) / columns
    width = min(settings.height - BOTTOM - TOP, free)
    for place, rows in enumerate(others):
        line, column = divmod(place, columns)
        bottom = BOTTOM + (lines - 1 - line) * settings.height
        axis = panel(figure, LEFT + column * (width + GUTTER), bottom, width, width)
        _draw_steps(axis, rows, "abcdefghijklmnopqrstuvwxyz"[place % 26])
    _sizes(axis)
    return figure, numbers


def values(tables: Sequence[Path]) -> pd.DataFrame:
    """Count features by their two steps, and list the numbers of every comparison."""
    if not tables or len(tables) % 2:
        raise UserError(f"--tables: {len(tables)} tables were named; expected pairs.csv and agreement.csv of every run")
    half, parts = len(tables) // 2, list[pd.DataFrame]()
    for pairs_file, agreement_file in zip(tables[:half], tables[half:], strict=True):
        pairs, agreement = read_table(pairs_file, PAIRS), read_table(agreement_file, AGREEMENT)
        dated = pairs[pairs["matched"].astype(bool)].dropna(subset=list(PAIRS))
        cells = dated.groupby(["shared_step", "other_shared_step"]).size().rename("features").reset_index()
        for name in ("dictionary", "run", "other", "other_run", "checkpoints", "rows"):
            cells[name] = agreement[name].iloc[0]
        parts += [cells.assign(panel="steps"), agreement.assign(panel="agreement")]
    numbers = _with_intervals(pd.concat(parts, ignore_index=True))
    if not (numbers["panel"] == "steps").any():
        raise UserError(f"{tables[0]}: no feature is matched, here or in another run; lower evaluation.matching.cosine")
    whole = ("features", "shared_step", "other_shared_step", "rows")
    return numbers.astype(dict.fromkeys(whole, "Int64"))[DRAWN]


def _with_intervals(numbers: pd.DataFrame) -> pd.DataFrame:
    """Give shares of features an interval where the table has none; what chance gives is computed, not estimated."""
    shares = numbers["metric"].isin(SHARES) & (numbers["features"] > 0)
    of = numbers.loc[shares, "features"].astype(float)
    numbers.loc[shares, "low"], numbers.loc[shares, "high"] = wilson_interval(numbers.loc[shares, "value"] * of, of)
    return numbers


def _draw_steps(axis: Axes, rows: pd.DataFrame, name: str) -> None:
    """Draw the discs of one comparison, and above them what is compared and how well the steps agree."""
    cells = rows[rows["panel"] == "steps"]
    steps = [int(step) for step in rows["checkpoints"].iloc[0].split()]
    sites = site_axis([Site("", step, "") for step in steps])
    sites.mark_both(axis)
    axis.set_xlabel("Emergence step, reference")
    axis.set_ylabel("Emergence step, other run")
    ends = axis.get_xlim()
    axis.plot(ends, ends, color=LIGHT, linewidth=THIN, zorder=0)
    at = dict(zip(steps, sites.positions, strict=True))
    first = cells["shared_step"] == steps[0]
    axis.scatter(
        cells["shared_step"].map(at), cells["other_shared_step"].map(at), areas(cells["features"].to_numpy(np.float64)),
        color=np.where(first, GROUPS["initialisation"], GROUPS["emergent"]), linewidth=0, alpha=0.8, clip_on=False,
        zorder=3,
    )  # fmt: skip
    for line, text in enumerate(reversed(_words(rows))):
        axis.annotate(
            text, (0, 1), (0, 6 + 8.5 * line), xycoords="axes fraction", textcoords="offset points", va="bottom",
            fontsize="small", color=INK if line == LINES - 1 else GREY,
        )  # fmt: skip
    axis.annotate(
        name, (0, 1), (-(LEFT - 1) * POINTS_PER_INCH / MM_PER_INCH, 6 + 8.5 * (LINES - 1)), xycoords="axes fraction",
        textcoords="offset points", va="bottom", fontweight="bold",
    )  # fmt: skip


def areas(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas of discs in square points: one for a single feature, growing by as much for every tenfold."""
    return SMALLEST + (LARGEST - SMALLEST) * np.log10(features) / 3


def _sizes(axis: Axes) -> None:
    """Show at the right of the last panel how many features a disc stands for."""
    x, step = 1 + 2.5 * MARGIN / size_of(axis)[0], 0.11
    style: dict[str, Any] = {"fontsize": "small", "color": GREY, "annotation_clip": False}
    top = (x, 0.02 + step * len(LEGEND))
    axis.annotate("features", top, xycoords="axes fraction", ha="center", va="center", **style)
    for place, count in enumerate(LEGEND):
        y = 0.02 + step * place
        area = float(areas(np.array([count]))[0])
        axis.scatter(x, y, area, color=LIGHT, linewidth=0, transform=axis.transAxes, clip_on=False)
        axis.annotate(f"{count:,}", (x, y), (8, 0), "axes fraction", "offset points", va="center", **style)


def _words(rows: pd.DataFrame) -> list[str]:
    """Say above a panel what is compared, and what it came to."""
    share, same, both = (
        _number(rows, ALL, "matched_share"),
        _number(rows, ALL, "equal"),
        _number(rows, BOTH, "spearman"),
    )
    chance = _number(rows, ALL, "equal_by_chance")
    return [
        display_name(str(rows["other"].iloc[0])),
        f"{round(share['value'] * share['features']):,} of {counted(share['features'], 'feature')} matched",
        f"equal {_percent(same)}, by chance {_percent(chance)}",
        f"rank correlation {_interval(_number(rows, ALL, 'spearman'))}",
        f"{both['features']:,} emergent in both: {_interval(both)}",
    ]


def _number(rows: pd.DataFrame, group: str, metric: str) -> pd.Series:
    """Find a number of a comparison, with its interval and how many features it is over."""
    return rows[(rows["group"] == group) & (rows["metric"] == metric)].iloc[0]


def _percent(number: pd.Series) -> str:
    return f"{number['value']:.1%}" if np.isfinite(number["value"]) else "none"


def _interval(number: pd.Series) -> str:
    if not np.isfinite(number["value"]):
        return "undefined"
    return f"{number['value']:.2f} ({number['low']:.2f} to {number['high']:.2f})"


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    parts = []
    for (other, _), rows in numbers.groupby(["other", "other_run"], sort=False):
        share, late = _number(rows, ALL, "matched_share"), _number(rows, EMERGENT, "matched_share")
        same, near = _number(rows, ALL, "equal"), _number(rows, ALL, "within_one")
        either, both = _number(rows, EITHER, "equal"), _number(rows, BOTH, "spearman")
        parts.append(
            f"{display_name(str(other))} ({counted(len(rows['checkpoints'].iloc[0].split()), 'checkpoint')} shared): "
            f"{_percent(share)} of {counted(share['features'], 'feature')} of the reference are matched, and "
            f"{_percent(late)} of the {late['features']:,} that emerge after step "
            f"{rows['checkpoints'].iloc[0].split()[0]}; of those matched {_percent(same)} emerge at the same step "
            f"({_percent(_number(rows, ALL, 'equal_by_chance'))} by chance), {_percent(near)} within one "
            f"checkpoint, of {counted(either['features'], 'feature')} that are emergent in either run "
            f"{_percent(either)} at the same step; rank correlation {_interval(_number(rows, ALL, 'spearman'))}, "
            f"permutation p {rounded(_number(rows, ALL, 'permutation_p')['value'])}, and "
            f"{_interval(both)} among the {both['features']:,} emergent in both"
        )
    first = numbers.iloc[0]
    return Caption(
        TITLE,
        DESCRIPTION,
        f"{'. '.join(parts)}.",
        f"run {first['run']} of {first['dictionary']}, compared with "
        + listed(
            [
                f"{run} of {other}"
                for other, run in dict.fromkeys(zip(numbers["other"], numbers["other_run"], strict=True))
            ]
        ),
        counted(int(first["rows"]), "heldout row"),
    )
