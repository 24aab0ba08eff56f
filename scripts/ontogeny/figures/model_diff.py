"""Two models by the features of crosscoders: whose they are, whether that holds, and what it costs either model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.config.figures import FigureStyle, ModelDiffFigure
from ontogeny.errors import UserError
from ontogeny.figures.caption import Caption, among, counted, listed, rounded
from ontogeny.figures.style import (
    CROSSCODERS,
    GREY,
    LIGHT,
    SHADE,
    THIN,
    End,
    display_name,
    label_ends,
    letter,
    page,
    panel,
    room,
)  # fmt: skip
from ontogeny.figures.tables import SITE, read_metrics, read_table
from ontogeny.figures.wilson import with_count_interval

TITLE = "Two models by the features of one crosscoder"
DESCRIPTION = (
    "Which features two models share, A being the first and B the second; one colour per dictionary. (a) Relative "
    "decoder norm r = n_B / (n_A + n_B) (Lindsey et al. 2024): shared from 0.3 to 0.7 (grey ground). (b) Relative "
    "norm Delta = ((n_A - n_B) / max(n_A, n_B) + 1) / 2 (Minder et al. 2025), which runs the other way: of B alone "
    "below 0.1, shared within 0.1 of 0.5, of A alone above 0.9 (grey grounds). Designated shared features, whose "
    "decoder is the same in both, are left out of the two. (c) Cosine of the two decoders of features with r from 0.3 "
    "to 0.7. (d) Latent scaling of the features that (b) calls of one model alone, downward triangles those of A: the "
    "scale with which their direction is in the other model over that in their own, in the error (high: complete "
    "shrinkage) and in the reconstruction (high: latent decoupling); only where both are near 0 the other model has "
    "nothing of it. Small grey points are shared features of the dictionary that comes first. What lies beyond the "
    "frame is drawn at its edge. (e) How many features of one model alone keep both ratios below a threshold; dotted: "
    "how many there are. (f) Share of the loss under mean ablation (filled) and zero ablation (open) that the "
    "reconstruction recovers. In the table beside the figure, counts of features have a 95 % interval by Wilson's "
    "formula, which takes the features for a sample."
)

OF_FEATURES = ("feature", "designated", "relative_norm", "norm_difference", "cosine", "nu_error", "nu_reconstruction")
TABLE = ("dictionary", "run", "model_a", "model_b", *OF_FEATURES, "tokens")
COLUMNS = ["panel", "series", "dictionary", "run", *SITE, "feature", "x", "value", "low", "high", "total", "tokens"]
SHARED_R, SHARED_DELTA, ALONE_DELTA = (0.3, 0.7), (0.4, 0.6), (0.1, 0.9)
"""Bands of the two publications."""
BINS = {"relative": np.linspace(0, 1, 51), "difference": np.linspace(0, 1, 51), "cosine": np.linspace(-1, 1, 51)}
"""Edges of the histograms."""
THRESHOLDS = np.round(np.arange(0, 1.001, 0.05), 2)
LOWEST, HIGHEST = -0.15, 1.15
"""Ends of the axes of latent scaling."""
RECOVERED = {"recovered_mean": "mean ablation", "recovered_zero": "zero ablation"}
LEFT, BOTTOM, TOP, GUTTER = 11.0, 9.5, 5.5, 14.0


def draw(tables: Sequence[Path], settings: ModelDiffFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `model_diff.csv` of runs over the same two models, and `nll-<model>.csv` of each run and model.
        settings: size on paper, and when a feature counts as of one model alone.
        style: what all figures share.

    Returns:
        The figure, and what is drawn. Panels `relative`, `difference` and `cosine` have a row for each bin (middle `x`,
        `value` features); `scaling` one for each feature (`x` nu of the error, `value` that of the reconstruction,
        `series` whose it is); `threshold` how many features of `total` have both below `x`; `recovered` a row for each
        site and ablation; `counts` how many features of `total` each definition gives to whom. Of
        counts, `low` and `high` are the 95 % interval.

    Raises:
        UserError: a table is missing, damaged or empty, or the runs are not over the same models.
    """
    numbers = values(tables, settings.nu)
    figure = page(settings)
    looks = _looks(numbers)
    right = room(looks, style)
    width = (settings.width - LEFT - 2 * GUTTER - right) / 3
    height = (settings.height - 2 * (BOTTOM + TOP)) / 2
    for place, name in enumerate(("relative", "difference", "cosine", "scaling", "threshold", "recovered")):
        row, column = divmod(place, 3)
        bottom = BOTTOM + (1 - row) * (height + BOTTOM + TOP)
        axis = panel(figure, LEFT + column * (width + GUTTER), bottom, width, height)
        rows = numbers[numbers["panel"] == name]
        if name in BINS:
            _draw_histogram(axis, name, rows, looks, numbers["series"].iloc[0])
        elif name == "scaling":
            _draw_scaling(axis, rows, looks)
        elif name == "threshold":
            _draw_thresholds(axis, rows, looks)
        else:
            _draw_recovered(axis, rows, looks, numbers["series"].iloc[0].split(" and "))
        letter(axis, "abcdef"[place])
    return figure, numbers


def values(tables: Sequence[Path], nu: float) -> pd.DataFrame:
    """Compute what is drawn, with the columns `COLUMNS`; the first row names the models.

    Args:
        tables: as `draw` takes them.
        nu: both ratios of latent scaling are below where a feature is of one model alone.
    """
    found = [read_table(table, TABLE) for table in tables if table.stem == "model_diff"]
    if not found:
        raise UserError("--tables: none is a model_diff.csv; expected that of at least one run")
    features = pd.concat(found, ignore_index=True)
    models = features[["model_a", "model_b"]].drop_duplicates()
    if len(models) > 1:
        raise UserError(f"--tables: runs are over {len(models)} pairs of models; expected the same two for all")
    parts = [pd.DataFrame({"panel": ["models"], "series": [" and ".join(models.iloc[0])]})]
    for (dictionary, run), own in features.groupby(["dictionary", "run"], sort=False):
        parts += [part.assign(dictionary=dictionary, run=run) for part in _of_run(own, nu)]
    losses = read_metrics([table for table in tables if table.stem != "model_diff"])
    losses = losses[losses["metric"].isin(RECOVERED)]
    parts.append(losses.assign(panel="recovered", series=losses["metric"].map(RECOVERED)))
    numbers = with_count_interval(pd.concat(parts, ignore_index=True), "value", "total").reindex(columns=COLUMNS)
    numbers = numbers.fillna({"series": "", "dictionary": "", "run": "", "model": "", "hook": ""})
    return numbers.astype(dict.fromkeys(("step", "feature", "total", "tokens"), "Int64"))


def _of_run(features: pd.DataFrame, nu: float) -> list[pd.DataFrame]:
    """Compute the rows of one run, but for its losses."""
    free = features[~features["designated"]]
    owner = owners(features)
    shared = features["relative_norm"].between(*SHARED_R)
    chosen = {
        "relative": free["relative_norm"],
        "difference": free["norm_difference"],
        "cosine": features[shared]["cosine"],
    }
    parts = []
    for name, column in chosen.items():
        counts, edges = np.histogram(column.dropna(), BINS[name])
        parts.append(
            pd.DataFrame({"panel": name, "x": (edges[1:] + edges[:-1]) / 2, "value": counts, "total": len(column)})
        )
    points = features[["feature"]].assign(x=features["nu_error"], value=features["nu_reconstruction"], series=owner)
    parts.append(points[points["series"] != "other"].assign(panel="scaling"))
    worst = np.maximum(points["x"].abs(), points["value"].abs())[owner.isin(["A alone", "B alone"])]
    below = [int((worst < threshold).sum()) for threshold in THRESHOLDS]
    parts.append(pd.DataFrame({"panel": "threshold", "x": THRESHOLDS, "value": below, "total": len(worst)}))
    given = {name: int((owner == name).sum()) for name in ("A alone", "B alone", "shared")}
    given |= {f"{name}, nu below {nu:g}": int((worst[owner == name] < nu).sum()) for name in ("A alone", "B alone")}
    given |= {"shared by r": int(shared.sum()), "designated": int(features["designated"].sum())}
    rows = {"series": given.keys(), "value": given.values(), "total": len(features)}
    parts.append(pd.DataFrame({"panel": "counts", **rows, "tokens": int(features["tokens"].max())}))
    return parts


def owners(features: pd.DataFrame) -> "pd.Series[str]":
    """Say whose features are by Delta: `A alone`, `B alone`, `shared` or `other`."""
    delta = features["norm_difference"]
    kinds = [delta > ALONE_DELTA[1], delta < ALONE_DELTA[0], delta.between(*SHARED_DELTA)]
    return pd.Series(np.select(kinds, ["A alone", "B alone", "shared"], "other"), index=features.index)


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


def _draw_histogram(axis: Axes, name: str, rows: pd.DataFrame, looks: Mapping[str, Look], models: str) -> None:
    a, b = models.split(" and ")
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


def _draw_scaling(axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    for number, look in enumerate(looks.values()):
        own = rows[look.rows.reindex(rows.index)]
        if number == 0:
            shared = own[own["series"] == "shared"]
            axis.plot(*_clipped(shared), ".", color=LIGHT, markersize=1.2, zorder=1, rasterized=True)
        for series, marker in (("A alone", "v"), ("B alone", "^")):
            points = own[own["series"] == series]
            axis.plot(
                *_clipped(points), marker, color=look.colour, markersize=2.6, markeredgewidth=0.5,
                markerfacecolor="none", linestyle="none", clip_on=False,
            )  # fmt: skip
    axis.set_xlim(LOWEST, HIGHEST)
    axis.set_ylim(LOWEST, HIGHEST)
    axis.set_xlabel("$\\nu$ of the error")
    axis.set_ylabel("$\\nu$ of the reconstruction")


def _clipped(points: pd.DataFrame) -> list[pd.Series]:
    return [points[name].clip(LOWEST, HIGHEST) for name in ("x", "value")]


def _draw_thresholds(axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    for look in looks.values():
        own = rows[look.rows.reindex(rows.index)]
        axis.plot(own["x"], own["value"], color=look.colour)
        axis.axhline(own["total"].iloc[0], color=look.colour, linestyle=":", linewidth=THIN)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, max(1.08 * float(rows["total"].max()), 1))
    axis.set_xlabel("Threshold of both $\\nu$")
    axis.set_ylabel("Features of one model alone")


def _draw_recovered(axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Look], models: list[str]) -> None:
    ends = []
    for name, look in looks.items():
        own = rows[look.rows.reindex(rows.index)]
        for series, face in (("mean ablation", look.colour), ("zero ablation", "white")):
            y = own[own["series"] == series].set_index("model")["value"].reindex(models).tolist()
            axis.plot(range(len(models)), y, "o", color=look.colour, markerfacecolor=face, linestyle="none")
            if series == "mean ablation":
                ends.append(End(len(models) - 1, y[-1], name, look.colour))
    axis.set_xlim(-0.5, len(models) - 0.5)
    axis.set_xticks(range(len(models)), models)
    axis.set_xlabel("Model")
    axis.axhline(1, color=LIGHT, linewidth=THIN, zorder=0)
    axis.margins(y=0.1)
    axis.set_ylim(axis.get_ylim())
    axis.set_ylabel("Loss recovered (share)")
    label_ends(axis, ends)


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
        a_below, b_below = [key for key in counts.index if "nu below" in key]
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
