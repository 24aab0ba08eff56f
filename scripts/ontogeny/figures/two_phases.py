"""Two phases of training: a language model learns the statistics of its text, and then features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.colours import shades
from ontogeny.config.figures import FigureStyle, TwoPhasesFigure
from ontogeny.errors import UserError
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, counted, rounded
from ontogeny.figures.student import with_interval
from ontogeny.figures.style import (
    CROSSCODERS,
    GREY,
    INK,
    MODELS,
    SHADE,
    THICK,
    End,
    label_ends,
    letter,
    page,
    panel,
    room,
)
from ontogeny.figures.tables import SITE, read_metrics, read_table
from ontogeny.sites import Site

TITLE = "Two phases of training"
DESCRIPTION = (
    "A language model against the unigrams and bigrams of the training text. (a) KL divergence of the model's "
    "predictions from those of the n-grams, KL(model || n-gram), mean over heldout positions. (b) Next-token loss "
    "of the model, and of the n-grams (lines), on the same heldout tokens. (c) Where it was measured, feature "
    "dimensionality of the crosscoder summed over features, as a share of the width of the activations. Bands are 95 % "
    "intervals over documents, by Student's t; dimensionality is of the decoder itself and no estimate from a sample, "
    "so it has none. N-grams are counted over the study's training text, with BOS before the first token of a context; "
    "unigrams are smoothed by adding one half to each count, bigrams by absolute discounting interpolated with the "
    "unigrams. The learning rate warms up over the steps on grey ground, where that is known. Training steps are on a "
    "log axis with step 0 in a slot of its own."
)

NGRAMS = dict(zip(("unigram", "bigram"), shades(MODELS[1], 3)[1:], strict=True))
"""Colours of the n-grams."""
METRICS = {
    "kl_unigram": ("kl", "unigram"),
    "kl_bigram": ("kl", "bigram"),
    "nll": ("loss", "model"),
    "nll_unigram": ("loss", "unigram"),
    "nll_bigram": ("loss", "bigram"),
    "discount": ("smoothing", "discount"),
    "feature_dimensionality": ("dimensionality", "features"),
}
"""Panel and series that show a metric; `smoothing` is no panel, but says how the n-grams were made."""
AXES = {
    "kl": "KL(model || n-gram) (nats)",
    "loss": "Next-token loss (nats)",
    "dimensionality": "Feature dimensionality / D",
}
"""Panels in order, and what their axes say."""
NGRAM_COLUMNS = ("model", "step", "metric", "value", "standard_error", "tokens", "groups")
COLUMNS = ["panel", "series", *SITE, "value", "low", "high", "tokens", "groups", "dictionary", "run"]
LEFT, TOP, GUTTER = 12.0, 6.5, 11.5


def draw(tables: Sequence[Path], settings: TwoPhasesFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `ngram-<model>.csv` of one model, and `dimensionality.csv` of one run over its checkpoints.
        settings: size on paper, and steps of the warm-up.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per panel, series and step; losses of n-grams have no step. `low` and
        `high` are a 95 % interval over `groups`, which are documents; dimensionality and `discount` have none.

    Raises:
        UserError: a table is missing, damaged or empty, or holds one checkpoint alone.
    """
    numbers = values(tables)
    names = [name for name in AXES if (numbers["panel"] == name).any()]
    labels = {"kl": ["bigram"], "loss": ["unigram"], "dimensionality": []}
    gaps = [room(labels[name], style) + GUTTER for name in names]
    figure = page(settings)
    bottom = 9.5
    width = (settings.width - LEFT - sum(gaps) + GUTTER) / len(names)
    for place, name in enumerate(names):
        left = LEFT + place * width + sum(gaps[:place])
        axis = panel(figure, left, bottom, width, settings.height - bottom - TOP)
        _draw_panel(axis, numbers[numbers["panel"] == name], settings.warmup_steps)
        axis.set_ylabel(AXES[name])
        letter(axis, "abc"[place])
    return figure, numbers


def values(tables: Sequence[Path]) -> pd.DataFrame:
    """Read what is drawn, with the columns `COLUMNS`.

    Args:
        tables: as `draw` takes them.
    """
    ngrams = [with_interval(read_table(file, NGRAM_COLUMNS)) for file in tables if file.name.startswith("ngram-")]
    metrics = [file for file in tables if not file.name.startswith("ngram-")]
    if len(ngrams) != 1:
        raise UserError(f"--tables: {len(ngrams)} tables are named ngram-<model>.csv; expected that of one model")
    table = pd.concat([*ngrams, *([read_metrics(metrics)] if metrics else [])], ignore_index=True)
    table = table[table["metric"].isin(list(METRICS)) & (table["step"].isna() | (table["step"] >= 0))]
    if ngrams[0]["step"].nunique() < 2:
        raise UserError("--tables: the model has one checkpoint; expected several, to see them change")
    table[["panel", "series"]] = [METRICS[metric] for metric in table["metric"]]
    table = table.reindex(columns=COLUMNS).astype({"step": "Int64", "tokens": "Int64", "groups": "Int64"})
    texts = ["hook", "dictionary", "run"]
    return table.fillna(dict.fromkeys(texts, "")).reset_index(drop=True)


def _draw_panel(axis: Axes, rows: pd.DataFrame, warmup_steps: int | None) -> None:
    ends = []
    sites = _sites(rows)
    sites.mark(axis)
    if warmup_steps and sites.scale is not None:
        _shade(axis, sites, warmup_steps)
    for series, of_series in rows.groupby("series", sort=False):
        colour = {"model": INK, "features": CROSSCODERS[0], **NGRAMS}[str(series)]
        values, low, high = of_series.sort_values("step")[["value", "low", "high"]].to_numpy(dtype=np.float64).T
        if of_series["step"].isna().all():
            axis.axhline(values[0], color=colour, linewidth=THICK, zorder=1)
            axis.fill_between(axis.get_xlim(), low[0], high[0], color=colour, alpha=0.2, linewidth=0, zorder=1)
        else:
            sites.line(axis, values, {"color": colour, "marker": "o", "markersize": 2.5, "linewidth": THICK})
            if np.isfinite(low).any():
                sites.band(axis, low, high, colour)
        label = "" if series == "features" else str(series)
        ends.append(End(axis.get_xlim()[1], values[-1], label, colour))
    low, high = rows[["value", "low"]].min(axis=None), rows[["value", "high"]].max(axis=None)
    least = 0.0 if (rows["panel"] != "loss").all() else low - 0.08 * (high - low)
    axis.set_ylim(least, high + 0.08 * (high - low) + 1e-9)
    axis.locator_params(axis="y", nbins=6)
    label_ends(axis, [end for end in ends if end.text])


def _sites(rows: pd.DataFrame) -> SiteAxis:
    """Lay out the checkpoints of a panel."""
    found = rows.dropna(subset="step")[SITE].drop_duplicates()
    return site_axis([Site(str(model), int(step), str(hook)) for model, step, hook in found.itertuples(index=False)])


def _shade(axis: Axes, sites: SiteAxis, warmup_steps: int) -> None:
    """Put grey ground under the warm-up, and say so above the panel; nothing where all checkpoints are later."""
    if sites.scale is None:
        return
    left, right = axis.get_xlim()
    end = min(float(sites.scale.positions([warmup_steps])[0]), right)
    if end <= left:
        return
    axis.axvspan(left, end, color=SHADE, linewidth=0, zorder=0)
    axis.annotate(
        "warm-up", (end, 1), (-1, 1.5), xycoords=("data", "axes fraction"), textcoords="offset points",
        color=GREY, fontsize="small", ha="right", va="bottom",
    )  # fmt: skip


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    series = dict(iter(numbers.groupby(["panel", "series"], sort=False)))
    loss = series["loss", "model"].sort_values("step")
    parts = []
    for name in NGRAMS:
        kl = series["kl", name]
        lowest = kl.loc[kl["value"].idxmin()]
        own = float(series["loss", name]["value"].iloc[0])
        below = loss.loc[loss["value"] < own, "step"]
        passed = (
            f"which the model passes by step {int(below.iloc[0]):,}" if len(below) else "which the model never passes"
        )
        parts.append(
            f"KL(model || {name}) is lowest at step {int(lowest['step']):,}, {rounded(lowest['value'])} nats; "
            f"the loss of {name}s is {rounded(own)} nats, {passed}."
        )
    if ("dimensionality", "features") in series:
        rows = series["dimensionality", "features"].sort_values("step")
        chosen = rows.loc[[rows.index[0], rows["value"].idxmin(), rows["value"].idxmax(), rows.index[-1]]]
        said = [f"{rounded(row['value'])} at step {int(row['step']):,}" for _, row in chosen.iterrows()]
        parts.append(f"Feature dimensionality over D: {said[0]} and {said[3]}, between {said[1]} and {said[2]}.")
    counts = series["smoothing", "discount"].iloc[0]
    heldout, train = (int(number) for number in (loss["tokens"].max(), counts["tokens"]))
    documents = counted(int(loss["groups"].max()), "document")
    tokens = f"{counted(heldout, 'heldout token')} of {documents}, n-grams of {counted(train, 'training token')}"
    runs = [f"run {run} of {name}" for name, run in numbers[["dictionary", "run"]].drop_duplicates().values if run]
    return Caption(TITLE, DESCRIPTION, " ".join(parts), ", ".join([f"model {loss['model'].iloc[0]}", *runs]), tokens)
