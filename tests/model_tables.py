"""Tables of a made-up language model: its training, its tokenizer, n-grams beside it, and tasks."""

from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ontogeny.evaluation.task_tables import COLUMNS
from ontogeny.evaluation.tasks import TASKS
from ontogeny.sites import Site


def training(folder: Path, model: str = "neox", scale: float = 1.0) -> Path:
    """Write `training.csv` of a language model; `scale` squeezes its losses together."""
    random = np.random.default_rng(3)

    def loss(step: float) -> float:
        return 8.32 - scale * 3.95 / (1 + (90 / max(step, 0.5)) ** 1.6) - 0.1 * scale * (step > 0)

    rows = [(step, "train", loss(step) + 0.05 * random.normal(), 2e-3, step * 2048) for step in range(10, 1001, 10)]
    rows += [(step, "heldout", loss(step) + 0.1, 2e-3, step * 2048) for step in made_up.STEPS]
    table = pd.DataFrame(rows, columns=["step", "split", "loss", "learning_rate", "tokens"])
    file = folder / "models" / model / "training.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.sort_values(["step", "split"]).to_csv(file, index=False)
    return file


def tokenizer(folder: Path, size: int = 4096) -> Path:
    """Write a `tokenizer.json` of `size` tokens."""
    file = folder / "tokenizer" / "tokenizer.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    Tokenizer(WordLevel({f"word{number}": number for number in range(size)}, "word0")).save(str(file))
    return file


def ngram(folder: Path, steps: tuple[int, ...] = made_up.STEPS) -> Path:
    """Write `ngram-neox.csv`: predictions near unigrams at step 32, then near bigrams."""
    rows: list[tuple[str, int | None, str, float, float, int, int | None]] = [
        ("neox", None, "discount", 0.6, np.nan, 2_000_000, None),
        ("neox", None, "nll_unigram", 6.5, 0.05, 16000, 24),
        ("neox", None, "nll_bigram", 4.75, 0.04, 16000, 24),
    ]
    for step in steps:
        place = np.log2(max(step, 0.5))
        learnt = 1 / (1 + (90 / max(step, 0.5)) ** 1.6)
        kl = {
            "kl_unigram": 0.3 + 0.1 * abs(place - 5) ** 1.3,
            "kl_bigram": 3.8 - 3.1 * learnt,
            "nll": 8.32 - 3.95 * learnt,
        }
        rows += [("neox", step, metric, value, 0.03, 16000, 24) for metric, value in kl.items()]
    file = folder / "metrics" / "ngram-neox.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=["model", "step", "metric", "value", "standard_error", "tokens", "groups"])
    table.astype({"step": "Int64", "groups": "Int64"}).to_csv(file, index=False)
    return file


def tasks(
    folder: Path, kind: str, sites: tuple[Site, ...] = made_up.SITES, measured: tuple[str, ...] = TASKS
) -> list[Path]:
    """Write the tables of tasks of a run: agreement is learnt from step 64 on, the other tasks are not."""
    random = np.random.default_rng(4)
    rows: dict[str, list[tuple[object, ...]]] = {name: [] for name in COLUMNS}
    for task in TASKS:
        for site in sites:
            if task not in measured:
                rows["tasks"].append((*site, task, "logit_difference", np.nan, np.nan, 0.0, 2, 12345, 1))
                continue
            own = float(random.normal(0, 0.005)) + (
                0.3 * np.log2(max(site.step, 32) / 32) if task == "agreement" else 0
            )
            for metric, value, chance in (
                ("logit_difference", own, 0),
                ("accuracy", 0.6, 0.5),
                ("without_features", 0.02, 0),
            ):
                rows["tasks"].append((*site, task, metric, value, 0.02, chance, 64, 34, 16))
            values = own * np.arange(6, 0, -1) / 10 + random.normal(0, 0.01, 6)
            ranks = (-values).argsort().argsort() + 1
            for feature, rank, value in zip((5, 88, 1203, 2047, 16, 700), ranks, values, strict=True):
                rows["attribution"].append((*site, task, feature, rank, value, 0.01, 0.7 * value, 64, 16))
            for ranking, share in (("attribution", 1.0), ("activation", 0.4), ("random", 0.1)):
                for k in (1, 4, 16, 64, 256, 1024):
                    gone = share * np.log10(k) / 4 * own
                    for features_are, value in (("ablated", own - gone), ("kept", gone)):
                        rows["ablations"].append((*site, task, ranking, features_are, k, value, 0.03, 64, 16))
    run = made_up.identity("crosscoder", 32)
    files = []
    for name in ("tasks", kind):
        table = pd.DataFrame([(*run, *row) for row in rows[name]], columns=[*run._fields, *COLUMNS[name]])
        files.append(folder / "metrics" / run.dictionary / run.run / f"{name}-neox.csv")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(files[-1], index=False)
    return files
