"""Whether features that need more context emerge later."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
from ontogeny.figures.caption import Caption, counted, listed, rounded
from ontogeny.figures.correlation import Correlation, correlation
from ontogeny.figures.rated import Rated, read_rated
from ontogeny.figures.style import CROSSCODERS, GREY, INK, LIGHT, THICK, THIN, letter, page, panel, size_of, width_of
from ontogeny.figures.typed import read_typed
from ontogeny.step_scale import step_scale

TITLE = "Context and emergence"
DESCRIPTION = (
    "Emergence step of features, the first checkpoint where the decoder norm over its maximum is above tau, against "
    "the context that they need: the fewest last tokens, of 1, 2, 4 and so on, that restore the activation of a top "
    "sample, in the median of its samples. A sample needs at most the tokens from the start of its context on, however "
    "much its feature could use. A context that is cut keeps BOS in front, and positions start anew. The features are "
    "a sample with equal numbers of both classes as far as there are. "
    "(a) Circles: areas are numbers of features; bars: median of the features that emerge at a step, whose number is "
    "above where there is room; both are of the features drawn, without an interval. "
    "(b) Spearman's correlation of both by tau, with a 95 % interval from draws of features with replacement; the line "
    "marks the tau of the study. Training steps are on a log axis with step 0 in a slot of its own."
)

RATED = (
    " (c, d) The same with what a language model says of a feature from its text: its complexity from 1, one token, to "
    "5, an idea that only a whole passage tells. Its explanations are tested on windows that it was not shown: "
    "detection asks in which of them the feature fires, fuzzing whether the tokens that are marked are those on which "
    "it fires (Paulo et al. 2024); both are balanced accuracies, 0.5 for answers by chance."
)

LEFT, RIGHT, TOP, GUTTER = 14.0, 3.0, 8.0, 18.0
SHARE = 0.58
"""Of the width, for the circles."""
LARGEST = 6.0
"""Millimetres across the largest circle."""
TAUS = tuple(round(0.1 + 0.05 * n, 2) for n in range(17))


class Measure(NamedTuple):
    """A number of each feature that is set against its emergence step."""

    column: str
    """Column of the numbers drawn."""
    prefix: str
    """Begins the names of its panels among them."""
    label: str
    """Label of its axis."""
    doubles: bool
    """Whether it is drawn, and correlated by Pearson, by its logarithm."""


CONTEXT = Measure("context", "", "Tokens of context needed", doubles=True)
RATING = Measure("rating", "rating ", "Complexity, as rated", doubles=False)

COLUMNS = [
    *("panel", "statistic", "threshold", "step", "context", "value", "low", "high", "p", "features"),
    *("dictionary", "run", "rows", "restored", "samples"),
]
RATED_COLUMNS = ["rating", "judge"]


def draw(tables: Sequence[Path], settings: ComplexityFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `features.parquet` and `feature_types.parquet` of one run over checkpoints of a model, and
            `interpretations.parquet` where a language model has rated its features.
        settings: size on paper, and draws behind intervals and p.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: panel `features` has a row for each step and context, with how many `features`
        there are; `median` one for each step, its context in `value`; `correlation` the statistics `spearman` and
        `pearson` at the study's tau, with p, and `spearman` at others. Panels whose names begin with `rating` are the
        same of ratings, where there are any; `scores` has the median of each test of the explanations, with quartiles.

    Raises:
        UserError: a table is missing, damaged or of another run, or sites are no checkpoints of one model at one hook.
    """
    features = read_typed(tables[:2])
    if len({(site.model, site.hook) for site in features.sites}) > 1:
        raise UserError(
            f"{tables[0]}: sites are no checkpoints of one model at one hook, so features emerge at no step"
        )
    rated = read_rated(tables[0], tables[2]) if len(tables) > 2 else None
    numbers = values(features, settings, rated)
    rows = [CONTEXT] if rated is None or not rated.any else [CONTEXT, RATING]
    figure = page(settings.model_copy(update={"height": settings.height * len(rows)}))
    bottom = site_axis(features.sites).depth(style)
    width, height = settings.width - LEFT - RIGHT - GUTTER, settings.height - bottom - TOP
    for row, measure in enumerate(rows):
        base = bottom + settings.height * (len(rows) - 1 - row)
        circles = panel(figure, LEFT, base, SHARE * width, height)
        taus = panel(figure, LEFT + SHARE * width + GUTTER, base, (1 - SHARE) * width, height)
        own = numbers[
            numbers["panel"].isin([f"{measure.prefix}{name}" for name in ("features", "median", "correlation")])
        ]
        own = own.assign(panel=own["panel"].str.removeprefix(measure.prefix))
        _draw_features(circles, own, measure, [site.step for site in features.sites])
        _draw_correlations(taus, own, features.threshold)
        letter(circles, "ac"[row], LEFT - 1)
        letter(taus, "bd"[row], LEFT)
    return figure, numbers


def values(features: Features, settings: ComplexityFigure, rated: Rated | None = None) -> pd.DataFrame:
    """Compute what is drawn, with the columns `COLUMNS`, and `RATED_COLUMNS` where there are ratings.

    Args:
        features: those whose context was measured.
        settings: draws behind intervals and p.
        rated: those that were rated.
    """
    parts = _measured(features, features.table["context_needed"], CONTEXT, settings)
    columns = COLUMNS
    if rated is not None:
        columns = [*COLUMNS, *RATED_COLUMNS]
        if rated.any:
            parts += _measured(rated.features, rated.features.table["complexity"], RATING, settings)
        parts += [_score(name, rated.features.table[name]) for name in ("detection", "fuzzing")]
    numbers = pd.concat(parts, ignore_index=True)
    for name in ("dictionary", "run"):
        numbers[name] = features.labels[name]
    limits = json.loads(features.labels["settings"])
    numbers = numbers.assign(rows=features.rows, restored=limits["restored"], samples=limits["samples"])
    if rated is not None:
        numbers = numbers.assign(judge=rated.judge)
    return numbers.reindex(columns=columns).astype({"step": "Int64", "features": "Int64"}).fillna({"statistic": ""})


def _measured(
    features: Features, value_F: "pd.Series[float]", measure: Measure, settings: ComplexityFigure
) -> list[pd.DataFrame]:
    """Count features by step and value, and correlate both by tau."""
    order = np.argsort([site.step for site in features.sites], kind="stable")
    step_S, norms_FS = np.array([site.step for site in features.sites])[order], features.norms[:, order]
    known = value_F.notna().to_numpy()
    own_F, norms_FS = value_F.to_numpy(dtype=np.float64)[known], norms_FS[known]
    tau = features.threshold
    frame = pd.DataFrame({"step": step_S[emergence(norms_FS, tau).first], measure.column: own_F})
    circles = frame.groupby(["step", measure.column], as_index=False).size().rename(columns={"size": "features"})
    medians = frame.groupby("step")[measure.column].agg(value="median", features="size").reset_index()
    parts = [circles.assign(panel=f"{measure.prefix}features"), medians.assign(panel=f"{measure.prefix}median")]
    for threshold in sorted({*TAUS, tau}):
        site_F = emergence(norms_FS, threshold).first.astype(np.float64)
        shuffles = settings.permutations if threshold == tau else 0
        found = correlation(site_F, own_F, settings.resamples, shuffles, settings.seed)
        parts.append(_row(measure, "spearman", threshold, found, len(own_F)))
    log_F = np.log10(1 + frame["step"].to_numpy(dtype=np.float64))
    other_F = np.log2(own_F) if measure.doubles else own_F
    found = correlation(log_F, other_F, settings.resamples, settings.permutations, settings.seed, ranked=False)
    return [*parts, _row(measure, "pearson", tau, found, len(own_F))]


def _row(measure: Measure, statistic: str, threshold: float, found: Correlation, features: int) -> pd.DataFrame:
    panel = f"{measure.prefix}correlation"
    row = {"panel": panel, "statistic": statistic, "threshold": threshold, "features": features}
    return pd.DataFrame([{**row, **found._asdict()}])


def _score(test: str, score_F: "pd.Series[float]") -> pd.DataFrame:
    low, middle, high = score_F.quantile([0.25, 0.5, 0.75])
    row = {"panel": "scores", "statistic": test, "value": middle, "low": low, "high": high}
    return pd.DataFrame([{**row, "features": int(score_F.count())}])


def _draw_features(axis: Axes, numbers: pd.DataFrame, measure: Measure, steps: Sequence[int]) -> None:
    circles, medians = (numbers[numbers["panel"] == name] for name in ("features", "median"))
    scale = step_scale(steps)
    mark_steps(scale, axis)
    count = circles["features"].to_numpy(dtype=np.float64)
    across = LARGEST / 25.4 * 72 * np.sqrt(count / count.max())
    x = scale.positions(circles["step"])
    area_N = np.square(across)
    axis.scatter(x, circles[measure.column], area_N, color=CROSSCODERS[0], alpha=0.7, linewidth=0, zorder=2)
    if measure.doubles:
        axis.set_yscale("log", base=2)
        top = max(16.0, float(circles[measure.column].max()))
        axis.set_ylim(0.6, top * 1.5)
        axis.yaxis.set_major_locator(FixedLocator([2.0**n for n in range(int(np.log2(top)) + 1)]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    else:
        axis.set_ylim(0.4, 5.9)
        axis.yaxis.set_major_locator(FixedLocator(range(1, 6)))
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
    axis.set_ylabel(measure.label)
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
    first = numbers.iloc[0]
    rows = numbers[numbers["panel"] == "correlation"]
    finding = f"Of {counted(int(rows['features'].iloc[0]), 'feature')} measured, {_correlated(rows, CONTEXT)}"
    finding += f" Samples: the top {int(first['samples'])} of each; restored: {first['restored']:.0%}."
    description = DESCRIPTION
    rated = numbers[numbers["panel"] == f"{RATING.prefix}correlation"]
    if not rated.empty:
        description += RATED
        total = counted(int(rated["features"].iloc[0]), "feature")
        scores = numbers[numbers["panel"] == "scores"]
        medians = [
            f"{score['statistic']} {score['value']:.2f} ({counted(int(score['features']), 'feature')}, quartiles "
            f"{score['low']:.2f} and {score['high']:.2f})"
            for _, score in scores[scores["features"] > 0].iterrows()
        ]
        finding += f" Of {total} rated by {first['judge']}, {_correlated(rated, RATING)}"
        finding += f" Medians of the scores: {listed(medians)}." if medians else " Its explanations were not tested."
    elif "judge" in numbers:
        finding += f" Of no feature could an answer of {first['judge']} be read: (c, d) are left out."
    run, tokens = f"run {first['run']} of {first['dictionary']}", counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, description, finding, run, tokens)


def _correlated(rows: pd.DataFrame, measure: Measure) -> str:
    """Say what the rows of a measure's correlations are."""
    tested = rows[rows["p"].notna()].set_index("statistic")
    spearman = rows[rows["statistic"] == "spearman"].dropna(subset="value")
    if tested.empty:
        alike = "need equal contexts" if measure.doubles else "are rated alike"
        finding = f"all emerge at one step or {alike}, so there is no correlation at the study's tau."
    else:
        pearson = "Pearson's r of the logs" if measure.doubles else "Pearson's r with the log of the step"
        said = [
            f"{name} {row['value']:.2f} (95 % interval {row['low']:.2f} to {row['high']:.2f}, permutation p "
            f"{rounded(row['p'])})"
            for name, row in zip(("Spearman's rho is", pearson), tested.loc[["spearman", "pearson"]].iloc, strict=True)
        ]
        finding = f"{' and '.join(said)} at tau = {tested['threshold'].iloc[0]:g}."
    if len(spearman) > 1:
        finding += (
            f" Rho is from {spearman['value'].min():.2f} to {spearman['value'].max():.2f} for tau from "
            f"{spearman['threshold'].min():g} to {spearman['threshold'].max():g}."
        )
    return finding
