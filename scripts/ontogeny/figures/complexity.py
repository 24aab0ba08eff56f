"""Whether features that need more context emerge later."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ontogeny.config.figures import ComplexityFigure, FigureStyle
from ontogeny.errors import UserError
from ontogeny.evaluation.emergence import emergence
from ontogeny.evaluation.feature_table import Features
from ontogeny.figures.axes import mark_steps, site_axis
from ontogeny.figures.caption import Caption, counted, rounded
from ontogeny.figures.correlation import Correlation, correlation
from ontogeny.figures.style import CROSSCODERS, GREY, INK, LIGHT, THICK, THIN, letter, page, panel, size_of, width_of
from ontogeny.figures.typed import read_typed
from ontogeny.step_scale import step_scale

TITLE = "Context and emergence"
DESCRIPTION = (
    "Emergence step of features, the first checkpoint where the decoder norm over its maximum is above tau, against "
    "the context that they need: the fewest last tokens, of 1, 2, 4 and so on, that restore the activation of a top "
    "sample, in the median of its samples. A context that is cut keeps BOS in front, and positions start anew. The "
    "features are a sample with equal numbers of both classes as far as there are. "
    "(a) Circles: areas are numbers of features; bars: median of the features that emerge at a step, whose number is "
    "above where there is room. "
    "(b) Spearman's correlation of both by tau, with a 95 % interval from draws of features with replacement; the line "
    "marks the tau of the study. Training steps are on a log axis with step 0 in a slot of its own."
)

LEFT, RIGHT, TOP, GUTTER = 14.0, 3.0, 8.0, 18.0
SHARE = 0.58
"""Of the width, for the circles."""
LARGEST = 6.0
"""Millimetres across the largest circle."""
TAUS = tuple(round(0.1 + 0.05 * n, 2) for n in range(17))
COLUMNS = [
    *("panel", "statistic", "threshold", "step", "context", "value", "low", "high", "p", "features"),
    *("dictionary", "run", "rows", "restored", "samples"),
]


def draw(tables: Sequence[Path], settings: ComplexityFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `features.parquet` and `feature_types.parquet` of one run over checkpoints of a model.
        settings: size on paper, and draws behind intervals and p.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: panel `features` has a row for each step and context, with how many `features`
        there are; `median` one for each step, its context in `value`; `correlation` the statistics `spearman` and
        `pearson` at the study's tau, with p, and `spearman` at others.

    Raises:
        UserError: a table is missing, damaged or of another run, or sites are no checkpoints of one model at one hook.
    """
    features = read_typed(tables)
    if len({(site.model, site.hook) for site in features.sites}) > 1:
        raise UserError(
            f"{tables[0]}: sites are no checkpoints of one model at one hook, so features emerge at no step"
        )
    numbers = values(features, settings)
    figure = page(settings)
    bottom = site_axis(features.sites).depth(style)
    width, height = settings.width - LEFT - RIGHT - GUTTER, settings.height - bottom - TOP
    circles = panel(figure, LEFT, bottom, SHARE * width, height)
    taus = panel(figure, LEFT + SHARE * width + GUTTER, bottom, (1 - SHARE) * width, height)
    _draw_features(circles, numbers, [site.step for site in features.sites])
    _draw_correlations(taus, numbers, features.threshold)
    letter(circles, "a", LEFT - 1)
    letter(taus, "b", LEFT)
    return figure, numbers


def values(features: Features, settings: ComplexityFigure) -> pd.DataFrame:
    """Compute what is drawn, with the columns `COLUMNS`.

    Args:
        features: those whose context was measured.
        settings: draws behind intervals and p.
    """
    order = np.argsort([site.step for site in features.sites], kind="stable")
    step_S, norms_FS = np.array([site.step for site in features.sites])[order], features.norms[:, order]
    context_F = features.table["context_needed"].to_numpy(dtype=np.float64)
    known = ~np.isnan(context_F)
    context_F, norms_FS = context_F[known], norms_FS[known]
    tau = features.threshold
    frame = pd.DataFrame({"step": step_S[emergence(norms_FS, tau).first], "context": context_F})
    circles = frame.groupby(["step", "context"], as_index=False).size().rename(columns={"size": "features"})
    medians = frame.groupby("step")["context"].agg(value="median", features="size").reset_index()
    parts = [circles.assign(panel="features"), medians.assign(panel="median")]
    for threshold in sorted({*TAUS, tau}):
        site_F = emergence(norms_FS, threshold).first.astype(np.float64)
        shuffles = settings.permutations if threshold == tau else 0
        found = correlation(site_F, context_F, settings.resamples, shuffles, settings.seed)
        parts.append(_row("spearman", threshold, found, len(context_F)))
    logs = np.log10(1 + frame["step"].to_numpy(dtype=np.float64)), np.log2(context_F)
    found = correlation(*logs, settings.resamples, settings.permutations, settings.seed, ranked=False)
    parts.append(_row("pearson", tau, found, len(context_F)))
    numbers = pd.concat(parts, ignore_index=True)
    for name in ("dictionary", "run"):
        numbers[name] = features.labels[name]
    limits = json.loads(features.labels["settings"])
    numbers = numbers.assign(rows=features.rows, restored=limits["restored"], samples=limits["samples"])
    return numbers.reindex(columns=COLUMNS).astype({"step": "Int64", "features": "Int64"}).fillna({"statistic": ""})


def _row(statistic: str, threshold: float, found: Correlation, features: int) -> pd.DataFrame:
    row = {"panel": "correlation", "statistic": statistic, "threshold": threshold, "features": features}
    return pd.DataFrame([{**row, **found._asdict()}])


def _draw_features(axis: Axes, numbers: pd.DataFrame, steps: Sequence[int]) -> None:
    circles, medians = (numbers[numbers["panel"] == name] for name in ("features", "median"))
    scale = step_scale(steps)
    mark_steps(scale, axis)
    count = circles["features"].to_numpy(dtype=np.float64)
    across = LARGEST / 25.4 * 72 * np.sqrt(count / count.max())
    x = scale.positions(circles["step"])
    area_N = np.square(across)
    axis.scatter(x, circles["context"], area_N, color=CROSSCODERS[0], alpha=0.7, linewidth=0, zorder=2)
    axis.set_yscale("log", base=2)
    top = max(16.0, float(circles["context"].max()))
    axis.set_ylim(0.6, top * 1.5)
    axis.yaxis.set_major_locator(FixedLocator([2.0**n for n in range(int(np.log2(top)) + 1)]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    centres, half = scale.positions(medians["step"]), 0.03 * scale.length
    axis.hlines(medians["value"], centres - half, centres + half, color=INK, linewidth=THICK, zorder=1)
    taken, per_mm = -np.inf, (axis.get_xlim()[1] - axis.get_xlim()[0]) / size_of(axis)[0]
    for centre, number in zip(centres, medians["features"], strict=True):
        half_width = (width_of(f"{number:,}", mpl.rcParams["legend.fontsize"]) / 2 + 0.4) * per_mm
        if centre - half_width >= taken:
            taken = centre + half_width
            axis.annotate(
                f"{number:,}", (centre, 1), (0, 1), xycoords=axis.get_xaxis_transform(), textcoords="offset points",
                color=GREY, fontsize="small", ha="center", va="bottom",
            )  # fmt: skip
    axis.annotate(
        "features", (0, 1), (-3, 1), xycoords="axes fraction", textcoords="offset points", color=GREY,
        fontsize="small", ha="right", va="bottom",
    )  # fmt: skip
    axis.set_xlabel("Emergence step")
    axis.set_ylabel("Tokens of context needed")
    found = numbers[(numbers["statistic"] == "spearman") & numbers["p"].notna()]
    for _, row in found.iterrows():
        interval = f"{row['low']:.2f} to {row['high']:.2f}"
        axis.text(
            0.99, 0.99, f"$\\rho$ = {row['value']:.2f} ({interval}), p = {rounded(row['p'])}",
            transform=axis.transAxes, ha="right", va="top", fontsize="small",
        )  # fmt: skip


def _draw_correlations(axis: Axes, numbers: pd.DataFrame, threshold: float) -> None:
    rows = numbers[numbers["statistic"] == "spearman"]
    axis.axhline(0, color=LIGHT, linewidth=THIN, zorder=0)
    axis.axvline(threshold, color=INK, linewidth=THIN, linestyle="--", zorder=1)
    axis.fill_between(rows["threshold"], rows["low"], rows["high"], color=CROSSCODERS[0], alpha=0.2, linewidth=0)
    axis.plot(rows["threshold"], rows["value"], color=CROSSCODERS[0], marker="o", markersize=2.5)
    axis.set_xlim(TAUS[0] - 0.02, TAUS[-1] + 0.02)
    ends = np.append(rows[["low", "high"]].to_numpy(dtype=np.float64).ravel(), (-0.1, 0.1))
    axis.set_ylim(1.1 * np.nanmin(ends), 1.1 * np.nanmax(ends))
    axis.set_xlabel("Threshold τ of the normalised norm")
    axis.set_ylabel("Spearman's $\\rho$")
    mark = f"τ = {threshold:g}"
    axis.text(threshold, 1.02, mark, transform=axis.get_xaxis_transform(), ha="center", va="bottom", fontsize="small")


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    rows = numbers[numbers["panel"] == "correlation"]
    tested = rows[rows["p"].notna()].set_index("statistic")
    spearman = rows[rows["statistic"] == "spearman"].dropna(subset="value")
    first = numbers.iloc[0]
    total = int(rows["features"].iloc[0])
    finding = f"Of {counted(total, 'feature')} measured, "
    if tested.empty:
        finding += "all emerge at one step or need equal contexts, so there is no correlation at the study's tau."
    else:
        names = ("Spearman's rho is", "Pearson's r of the logs")
        said = [
            f"{name} {row['value']:.2f} (95 % interval {row['low']:.2f} to {row['high']:.2f}, permutation p "
            f"{rounded(row['p'])})"
            for name, row in zip(names, tested.loc[["spearman", "pearson"]].iloc, strict=True)
        ]
        finding += f"{' and '.join(said)} at tau = {tested['threshold'].iloc[0]:g}."
    if len(spearman) > 1:
        finding += (
            f" Rho is from {spearman['value'].min():.2f} to {spearman['value'].max():.2f} for tau from "
            f"{spearman['threshold'].min():g} to {spearman['threshold'].max():g}."
        )
    finding += f" Samples: the top {int(first['samples'])} of each; restored: {first['restored']:.0%}."
    run, tokens = f"run {first['run']} of {first['dictionary']}", counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, DESCRIPTION, finding, run, tokens)
