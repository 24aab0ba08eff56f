"""Two models by the features of crosscoders: whose they are, whether that holds, and what it costs either model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from ontogeny.config.figures import FigureStyle, ModelDiffFigure
from ontogeny.figures.caption import Caption, among, counted, listed, rounded
from ontogeny.figures.style import (
    CROSSCODERS,
    GREY,
    INK,
    LIGHT,
    SHADE,
    THIN,
    display_name,
    letter,
    page,
    panel,
    room,
    size_of,
)  # fmt: skip
from ontogeny.figures.two_models import ALONE_DELTA, BINS, RECOVERED, SHARED_DELTA, SHARED_R, values

TITLE = "Two models by the features of one crosscoder"
DESCRIPTION = (
    "Which features two models share, A being the first and B the second; one colour per dictionary. (a) Relative "
    "decoder norm r = n_B / (n_A + n_B) (Lindsey et al. 2024): shared from 0.3 to 0.7 (grey ground). (b) Relative norm "
    "Delta = ((n_A - n_B) / max(n_A, n_B) + 1) / 2 (Minder et al. 2025), which runs the other way: of B alone below "
    "0.1, shared within 0.1 of 0.5, of A alone above 0.9 (grey grounds). Designated shared features, whose decoder is "
    "the same in both, are left out of the two. (c) Cosine of the two decoders of features with r from 0.3 to 0.7. (d) "
    "Latent scaling of the features that (b) calls of one model alone, downward triangles those of A: nu is the scale "
    "with which their direction is in the other model over that in their own, in the error (high: complete shrinkage) "
    "and in the reconstruction (high: latent decoupling); only where both are near 0 (thin lines) the other model has "
    "nothing of it. Triangles beyond the frame stand on its edge. Grey points are shared features of the dictionary "
    "that comes first, without those beyond the frame. (e) How many features of one model alone have both nu within a "
    "threshold of 0; dotted: how many there are. (f) Share of the loss under mean ablation (filled) and zero ablation "
    "(open) that the reconstruction recovers. Features read both models, so that the reconstruction of one may hold "
    "what the other knows, and above 1 it predicts better than the model itself. (d) to (f) are drawn without "
    "intervals: each nu and each share is one number of one run over all heldout rows or tokens, which does not say "
    "how much other rows or another seed would change it. In the table beside the figure, counts of features have a 95 "
    "% interval by Wilson's formula, which takes the features for a sample."
)

LEFT, RIGHT, BOTTOM, GUTTER = 11.0, 3.0, 9.5, 14.0
TOP, UNDER_KEYS = 5.5, 9.0
"""Millimetres above the panels of the first row and of the second, whose keys stand there."""
KEY, BESIDE = 4.0, 5.0
"""Millimetres of a line of the key of dictionaries, and of the mark and the space at either side of its names."""
TRIANGLES = {"A alone": "v", "B alone": "^"}
DOTTED: dict[str, Any] = {"linestyle": ":", "linewidth": THIN}
POINT: dict[str, Any] = {"linestyle": "none", "marker": ".", "color": LIGHT}
HOLLOW: dict[str, Any] = {"linestyle": "none", "markersize": 2.6, "markeredgewidth": 0.5, "markerfacecolor": "none"}
LEAST, MOST = (-0.15, 1.15), (-0.5, 1.5)
"""What an axis of latent scaling shows at least and at most."""


def draw(tables: Sequence[Path], settings: ModelDiffFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `model_diff.csv` of runs over the same two models, and `nll-<model>.csv` of each run and model.
        settings: size on paper, and when a feature counts as of one model alone.
        style: what all figures share.

    Returns:
        The figure, and what is drawn. Panels `relative`, `difference` and `cosine` have a row for each bin (middle `x`,
        `value` features); `scaling` one for each feature (`x` nu of the error, `value` that of the reconstruction,
        `series` whose it is); `threshold` how many features of `total` have both within `x` of 0; `recovered` a row for
        each site and ablation; `counts` how many features of `total` each definition gives to whom. Of counts, `low`
        and `high` are the 95 % interval.

    Raises:
        UserError: a table is missing, damaged or empty, or the runs are not over the same models.
    """
    numbers = values(tables, settings.nu)
    figure = page(settings)
    looks = _looks(numbers)
    models = numbers["series"].iloc[0].split(" and ")
    top = TOP + _key_of_dictionaries(figure, looks, settings.width, style)
    width = (settings.width - LEFT - 2 * GUTTER - RIGHT) / 3
    height = (settings.height - 2 * BOTTOM - top - UNDER_KEYS) / 2
    for place, name in enumerate(("relative", "difference", "cosine", "scaling", "threshold", "recovered")):
        row, column = divmod(place, 3)
        bottom = BOTTOM + (1 - row) * (height + BOTTOM + UNDER_KEYS)
        axis = panel(figure, LEFT + column * (width + GUTTER), bottom, width, height)
        rows = numbers[numbers["panel"] == name]
        if name in BINS:
            _draw_histogram(axis, name, rows, looks, models)
        elif name == "scaling":
            _draw_scaling(axis, rows, looks, models, style)
        elif name == "threshold":
            _draw_thresholds(axis, rows, looks)
        else:
            _draw_recovered(axis, rows, looks, models)
        letter(axis, "abcdef"[place])
    return figure, numbers


class Look(NamedTuple):
    """How the run of a dictionary is drawn."""

    colour: str
    rows: pd.Series


def _looks(numbers: pd.DataFrame) -> Mapping[str, Look]:
    """Give every run a name and a colour, in order."""
    runs = numbers.loc[numbers["run"] != "", ["dictionary", "run"]].drop_duplicates()
    looks = {}
    for number, (dictionary, run) in enumerate(runs.itertuples(index=False)):
        several = (runs["dictionary"] == dictionary).sum() > 1
        name = display_name(dictionary) + (f"\n{run.partition('-')[2]}" if several else "")
        rows = (numbers["dictionary"] == dictionary) & (numbers["run"] == run)
        looks[name] = Look(CROSSCODERS[number % len(CROSSCODERS)], rows)
    return looks


def _draw_histogram(axis: Axes, name: str, rows: pd.DataFrame, looks: Mapping[str, Look], models: list[str]) -> None:
    a, b = models
    edges = BINS[name]
    for look in looks.values():
        own = rows[look.rows.reindex(rows.index)]
        axis.stairs(own["value"].to_numpy(dtype=float), edges, color=look.colour, baseline=None)
    axis.set_yscale("log")
    axis.set_ylim(0.7, 2 * max(float(rows["value"].max()), 2))
    axis.set_xlim(edges[0], edges[-1])
    grounds = {
        "relative": [SHARED_R],
        "difference": [(0, ALONE_DELTA[0]), SHARED_DELTA, (ALONE_DELTA[1], 1)],
        "cosine": [],
    }[name]
    for low, high in grounds:
        axis.axvspan(low, high, color=SHADE, linewidth=0, zorder=0)
    words = {"relative": "Relative norm $r$", "difference": "Relative norm Δ", "cosine": "Cosine of shared decoders"}
    axis.set_xlabel(words[name])
    if name != "cosine":
        first, second = (a, b) if name == "relative" else (b, a)
        for x, side, model in ((0.02, "left", first), (0.98, "right", second)):
            axis.text(
                x, 1.02, f"{model} alone", ha=side, va="bottom", color=GREY, fontsize="small", transform=axis.transAxes
            )
    axis.set_ylabel("Features")


def _draw_scaling(
    axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Look], models: list[str], style: FigureStyle
) -> None:
    alone = rows[rows["series"] != "shared"]
    (left, right), (low, high) = (_ends(alone[name]) for name in ("x", "value"))
    axis.set(xlim=(left, right), ylim=(low, high), xlabel="$\\nu$ of the error", ylabel="$\\nu$ of the reconstruction")
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_locator(MultipleLocator(0.5))
    axis.axhline(0, color=LIGHT, linewidth=THIN, zorder=0)
    axis.axvline(0, color=LIGHT, linewidth=THIN, zorder=0)
    first = next(iter(looks))
    shared = rows[looks[first].rows.reindex(rows.index) & (rows["series"] == "shared")]
    axis.plot(shared["x"], shared["value"], **POINT, markersize=1.2, zorder=1, rasterized=True)
    for look in looks.values():
        own = alone[look.rows.reindex(alone.index)]
        for series, marker in TRIANGLES.items():
            points = own[own["series"] == series]
            x, y = points["x"].clip(left, right), points["value"].clip(low, high)
            axis.plot(x, y, **HOLLOW, marker=marker, color=look.colour, clip_on=False)
    handles = [Line2D([], [], **HOLLOW, marker=marker, color=INK) for marker in reversed(TRIANGLES.values())]
    words = [*(f"{model} alone" for model in reversed(models)), f"shared ({first.replace(chr(10), ' ')})"]
    if room(words[:2], style, BESIDE / 2) + room(words[2:], style, BESIDE / 2) > size_of(axis)[0]:
        words[2] = "shared"
    _key(axis, [*handles, Line2D([], [], **POINT, markersize=3)], words)


def _ends(nus: "pd.Series[float]") -> tuple[float, float]:
    """Choose the ends of an axis so that it holds these, if it can."""
    low, high = (nus.min() - 0.05, nus.max() + 0.05) if len(nus) else LEAST
    return max(min(LEAST[0], low), MOST[0]), min(max(LEAST[1], high), MOST[1])


def _draw_thresholds(axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    for look in looks.values():
        own = rows[look.rows.reindex(rows.index)]
        axis.plot(own["x"], own["value"], color=look.colour)
        axis.axhline(own["total"].iloc[0], color=look.colour, **DOTTED)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, max(1.08 * float(rows["total"].max()), 1))
    axis.set_xlabel("Threshold of both $|\\nu|$")
    axis.set_ylabel("Features of one model alone")
    _key(axis, [Line2D([], [], **DOTTED, color=INK)], ["how many there are"], handlelength=2)


def _draw_recovered(axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Look], models: list[str]) -> None:
    at, step = np.arange(len(models)), min(0.2, 0.8 / len(looks))
    for number, look in enumerate(looks.values()):
        own = rows[look.rows.reindex(rows.index)]
        for series, side in zip(RECOVERED.values(), (-0.04, 0.04), strict=True):
            y = own[own["series"] == series].set_index("model")["value"].reindex(models)
            face = look.colour if side < 0 else "white"
            x = at + (number - (len(looks) - 1) / 2) * step + side
            axis.plot(x, y, "o", color=look.colour, markerfacecolor=face)
    axis.set_xlim(-0.5, len(models) - 0.5)
    axis.set_xticks(at, models)
    axis.set_xlabel("Model")
    axis.axhline(1, color=LIGHT, linewidth=THIN, zorder=0)
    axis.margins(y=0.1)
    axis.set_ylabel("Loss recovered (share)")
    faces = (INK, "white")
    _key(
        axis,
        [Line2D([], [], marker="o", color=INK, markerfacecolor=face, linestyle="none") for face in faces],
        list(RECOVERED.values()),
    )


def _key_of_dictionaries(figure: Figure, looks: Mapping[str, Look], width: float, style: FigureStyle) -> float:
    """Say at the top of the page whose colour is which; return the millimetres that it takes."""
    names = [name.replace("\n", " ") for name in looks]
    columns = min(max(int(width // room(names, style, BESIDE)), 1), len(names))
    handles = [Line2D([], [], color=look.colour) for look in looks.values()]
    figure.legend(handles, names, loc="upper center", ncols=columns, borderaxespad=0.2, handlelength=1.5)
    return KEY * -(-len(names) // columns)


def _key(axis: Axes, handles: list[Line2D], words: list[str], handlelength: float = 0.8) -> None:
    """Say above a panel what its marks are, two in a line."""
    axis.legend(
        handles, words, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=handlelength, borderpad=0,
        borderaxespad=0.4, handletextpad=0.5, columnspacing=1.5, labelspacing=0.3,
    )  # fmt: skip


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    a, b = numbers["series"].iloc[0].split(" and ")
    parts = []
    for name, look in _looks(numbers).items():
        own = numbers[look.rows]
        counted_rows = own[own["panel"] == "counts"]
        counts = counted_rows.set_index("series")["value"].astype(int)
        losses = own[(own["panel"] == "recovered") & (own["series"] == "mean ablation")]
        shares = [f"{rounded(value)} ({model})" for model, value in zip(losses["model"], losses["value"], strict=True)]
        a_below, b_below = [key for key in counts.index if "nu within" in key]
        parts.append(
            f"{name.replace(chr(10), ', ')}: of {counted(int(counted_rows['total'].iloc[0]), 'live feature')}, "
            f"{counts['A alone']} are of {a} alone and {counts['B alone']} of {b} alone by Delta, of which "
            f"{counts[a_below]} and {counts[b_below]} have both {a_below.partition(', ')[2]}; "
            f"{counts['shared by r']} are shared by r; loss recovered {listed(shares)}"
        )
    tokens = {
        kind: numbers.loc[numbers["panel"] == kind, "tokens"].dropna().astype(int).tolist()
        for kind in ("counts", "recovered")
    }
    measured = listed([among(tokens["counts"], "heldout row"), among(tokens["recovered"], "heldout token")])
    runs = numbers.loc[numbers["run"] != "", ["dictionary", "run"]].drop_duplicates()
    named = listed(["/".join(run) for run in runs.itertuples(index=False)])
    return Caption(TITLE, DESCRIPTION, f"A is {a} and B is {b}. {'. '.join(parts)}.", named, measured)
