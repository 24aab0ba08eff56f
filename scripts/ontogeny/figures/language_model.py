"""Loss of a language model while it trains, with the checkpoints that are studied."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.config.figures import FigureSettings, FigureStyle
from ontogeny.errors import UserError
from ontogeny.figures.axes import mark_steps
from ontogeny.figures.caption import Caption, counted, listed, rounded
from ontogeny.figures.style import GREY, LIGHT, MODELS, THICK, THIN, End, display_name, label_ends, page, panel, room
from ontogeny.figures.tables import read_table
from ontogeny.step_scale import StepScale, step_scale

TITLE = "Training of the language model"
DESCRIPTION = (
    "Next-token loss of the language model on heldout text, with a marker at every saved checkpoint, and on the "
    "batches that it trains on (thin). The horizontal line is a uniform guess: ln V nats for a vocabulary of V "
    "tokens. Losses are means over a batch, or over all heldout tokens that training reads at a checkpoint, without an "
    "interval; where there is a figure two_phases, it has one for the checkpoints. Training steps are on a log axis "
    "with step 0 in a slot of its own."
)

LOOKS: dict[str, dict[str, Any]] = {
    "train": {"alpha": 0.45, "linewidth": THIN},
    "heldout": {"linewidth": THICK, "marker": "o", "markersize": 3},
}
"""How the losses on each split are drawn."""

SPLITS = {"heldout": "heldout", "train": "training"}
"""What the losses are called."""
UNIFORM = "uniform\n(ln V)"
COLUMNS = ("step", "split", "loss", "tokens")
LEFT, BOTTOM, TOP = 12.5, 9.5, 2.5


def draw(tables: Sequence[Path], settings: FigureSettings, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `<model>/training.csv` of one or several models and, for the uniform guess, `tokenizer.json`.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per model, split (`train`, `heldout`) and step; the split `uniform` is
        the uniform guess.

    Raises:
        UserError: a table is missing, damaged or empty.
    """
    numbers = values(tables)
    models = {str(name): rows for name, rows in numbers.groupby("model", sort=False)}
    labels = {(name, split): _label(name, split, len(models)) for name in models for split in LOOKS}
    scale = step_scale(numbers["step"].dropna().astype(int))
    figure = page(settings)
    right = room([*labels.values(), UNIFORM], style)
    axis = panel(figure, LEFT, BOTTOM, settings.width - LEFT - right, settings.height - BOTTOM - TOP)
    mark_steps(scale, axis)
    axis.set_ylabel("Next-token loss (nats)")
    ends = [
        _draw_line(axis, scale, rows[rows["split"] == split], split, MODELS[number % len(MODELS)], labels[name, split])
        for number, (name, rows) in enumerate(models.items())
        for split in LOOKS
        if (rows["split"] == split).any()
    ]
    margin = 0.08 * (numbers["loss"].max() - numbers["loss"].min()) + 0.01
    axis.set_ylim(numbers["loss"].min() - margin, numbers["loss"].max() + margin)
    axis.locator_params(axis="y", nbins=6)
    for loss in numbers.loc[numbers["split"] == "uniform", "loss"]:
        axis.axhline(loss, color=LIGHT, linewidth=THIN, zorder=0)
        ends.append(End(axis.get_xlim()[1], loss, UNIFORM, GREY))
    label_ends(axis, [end for end in ends if end.text])
    return figure, numbers


def _label(model: str, split: str, models: int) -> str:
    """Name a line: by split, or where there are several models by model."""
    if models == 1:
        return SPLITS[split]
    return display_name(model) if split == "heldout" else ""


def values(tables: Sequence[Path]) -> pd.DataFrame:
    """Read what is drawn: columns model, split, step (empty for the uniform guess), loss, and `tokens` trained on.

    Args:
        tables: as `draw` takes them.
    """
    parts = []
    for file in (file for file in tables if file.suffix != ".json"):
        table = read_table(file, COLUMNS)[list(COLUMNS)].sort_values(["split", "step"])
        known = table["split"].isin(list(SPLITS)) & np.isfinite(table["loss"])
        parts.append(table[known].assign(model=file.parent.name))
        if not len(parts[-1]):
            raise UserError(f"{file}: no loss is a finite number; train the model with a lower learning rate")
    if not parts:
        raise UserError("--tables: no training.csv was named; expected that of at least one model")
    for file in (file for file in tables if file.suffix == ".json"):
        parts.append(pd.DataFrame({"split": ["uniform"], "loss": [math.log(vocabulary(file))]}))
    table = pd.concat(parts, ignore_index=True).astype({"step": "Int64", "tokens": "Int64"})
    return table[["model", "split", "step", "loss", "tokens"]]


def vocabulary(tokenizer: Path) -> int:
    """Count the tokens of a `tokenizer.json`.

    Raises:
        UserError: the file is missing or holds no tokenizer.
    """
    try:
        content = json.loads(tokenizer.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        tokens = set(vocabulary) if isinstance(vocabulary, dict) else {token for token, _ in vocabulary}
        return len(tokens | {token["content"] for token in content.get("added_tokens", ())})
    except FileNotFoundError:
        raise UserError(f"{tokenizer}: there is no such file; run the rule 'tokenizer'") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{tokenizer}: no tokenizer of the tokenizers library; run the rule 'tokenizer' again"
        ) from None


def _draw_line(axis: Axes, scale: StepScale, rows: pd.DataFrame, split: str, colour: str, label: str) -> End:
    """Draw the loss of one model on one split; what leads from step 0 over the break is dotted."""
    x, loss = scale.positions(rows["step"].to_numpy(dtype=np.int64)), rows["loss"].to_numpy()
    first = int((rows["step"] == 0).sum()) if len(rows) > 1 else 0
    axis.plot(x[first:], loss[first:], color=colour, **LOOKS[split])
    axis.plot(x[: first + 1], loss[: first + 1], color=colour, linestyle=":", linewidth=THIN)
    axis.plot(x[:first], loss[:first], color=colour, **{**LOOKS[split], "linestyle": "none"})
    return End(x[-1], loss[-1], label, colour if split == "heldout" else GREY)


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    parts = []
    measured = numbers.dropna(subset="step")
    models = [str(model) for model in measured["model"].unique()]
    for (model, split), rows in measured.groupby(["model", "split"], sort=False):
        ends = [f"{rounded(row['loss'])} nats at step {int(row['step']):,}" for _, row in rows.iloc[[0, -1]].iterrows()]
        name = SPLITS[split] if len(models) == 1 else f"{model}, {SPLITS[split]}"
        parts.append(f"{name} loss: {' and '.join(dict.fromkeys(ends))}")
    for loss in numbers.loc[numbers["split"] == "uniform", "loss"]:
        parts.append(f"a uniform guess over {counted(round(math.exp(loss)), 'token')}: {rounded(loss)} nats")
    finding = "; ".join(parts)
    trained = [counted(int(rows["tokens"].max()), "token") for _, rows in measured.groupby("model", sort=False)]
    runs = f"model{'s' * (len(models) > 1)} {listed(models)}"
    return Caption(TITLE, DESCRIPTION, f"{finding[0].upper()}{finding[1:]}.", runs, f"trained on {listed(trained)}")
