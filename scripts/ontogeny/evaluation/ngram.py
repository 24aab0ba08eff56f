"""How close a language model is to the statistics of its training text: KL divergence from unigrams and bigrams."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ontogeny.command import progress
from ontogeny.config.evaluation import NgramSettings
from ontogeny.evaluation.heldout import Contexts, spaced_contexts
from ontogeny.evaluation.ngram_counts import NgramPredictor, count_ngrams
from ontogeny.files import write_csv
from ontogeny.language_model.bridge import load_model, logits
from ontogeny.sites import checkpoint_key
from ontogeny.tokens import read_tokens

ENTRIES_AT_ONCE = 2**20
"""Probabilities that exist at the same time, so that they stay in a processor's cache; at least one position's."""

MEASURES = ("kl_unigram", "kl_bigram", "nll")
"""What is measured of a checkpoint."""

PREDICTORS = ("nll_unigram", "nll_bigram")
"""What is measured of the n-grams themselves."""


class Row(NamedTuple):
    """A row of the table."""

    model: str
    """Name of the model."""
    step: int | None
    """Its checkpoint; None where the number is that of the n-grams."""
    metric: str
    """One of `MEASURES`, of `PREDICTORS`, or `discount`."""
    value: float
    """The number, in nats a token but for `discount`."""
    tokens: int
    """Tokens that it was measured on."""


def write_ngram(
    model: str, steps: Sequence[int], models: Path, train: Path, heldout: Path, settings: NgramSettings, out: Path
) -> dict[str, float]:
    """Compare every checkpoint of a model with the n-grams of the training text, and write a table.

    Its rows are, for each step, `kl_unigram` and `kl_bigram`, the mean over heldout positions of KL(model || n-gram) in
    nats, and `nll`, the model's own loss on the same tokens; without a step, `nll_unigram` and `nll_bigram`, the losses
    of the n-grams (cross-entropies), and `discount`, d of the bigrams, whose `tokens` are those that were counted.

    Args:
        model: name of the model.
        steps: its checkpoints.
        models: folder of all checkpoints.
        train: tokens that are counted.
        heldout: tokens that are predicted.
        settings: how many of them.
        out: the CSV file.

    Returns:
        Heldout tokens that were predicted, and training tokens that were counted.

    Raises:
        UserError: a checkpoint or the tokens are missing, or the model has fewer tokens than the tokenizer.
    """
    contexts = spaced_contexts(read_tokens(heldout), settings.tokens, keep_first_position=True)
    parts = contexts.split(settings.batch_contexts)
    vocabulary = load_model(models / checkpoint_key(model, steps[0])).cfg.d_vocab
    counts = count_ngrams(read_tokens(train), vocabulary)
    predictor = NgramPredictor(counts, "cuda" if torch.cuda.is_available() else "cpu")
    tokens = int(contexts.counted.sum())
    rows = [Row(model, None, "discount", predictor.discount, counts.tokens)]
    losses = _means([predictor_losses(predictor, part) for part in parts], tokens)
    rows += [Row(model, None, *measured, tokens) for measured in zip(PREDICTORS, losses, strict=True)]
    for step in progress(steps, len(steps), "checkpoints"):
        bridge = load_model(models / checkpoint_key(model, step))
        found = _means([divergences(predictor, logits(bridge, part.tokens), part) for part in parts], tokens)
        rows += [Row(model, step, *measured, tokens) for measured in zip(MEASURES, found, strict=True)]
        # Else it would stay in memory while the next one is loaded.
        del bridge
    write_csv(out, pd.DataFrame(rows, columns=Row._fields).astype({"step": "Int64"}))
    return {"tokens": tokens * len(steps), "counted": counts.tokens}


@torch.inference_mode()
def predictor_losses(predictor: NgramPredictor, contexts: Contexts) -> Tensor:
    """Sum the losses of the n-grams on the tokens that are counted.

    Returns:
        Sums for `PREDICTORS` in nats (shape: [2], float64, on the CPU).
    """
    log_unigram_V = predictor.log_unigram()
    sums = torch.zeros(len(PREDICTORS), dtype=torch.float64)
    for previous_P, next_P in _positions(contexts, predictor):
        bigram_P1 = predictor.log_bigram(previous_P).gather(1, next_P[:, None])
        sums -= torch.stack([part.sum(dtype=torch.float64) for part in (log_unigram_V[next_P], bigram_P1)]).cpu()
    return sums


@torch.inference_mode()
def divergences(predictor: NgramPredictor, logits_BTV: Tensor, contexts: Contexts) -> Tensor:
    """Sum what a model's predictions lose against n-grams: KL(model || n-gram) = sum_w p(w) (ln p(w) - ln q(w)).

    Args:
        predictor: the n-grams.
        logits_BTV: the model's logits at every position, (B, T, V).
        contexts: what it read, and which positions count.

    Returns:
        Sums for `MEASURES` in nats over positions (shape: [3], float64, on the CPU).
    """
    log_unigram_V = predictor.log_unigram()
    sums = torch.zeros(len(MEASURES), dtype=torch.float64)
    logits_PV = logits_BTV[:, :-1][contexts.counted.to(logits_BTV.device)]
    done = 0
    for previous_P, next_P in _positions(contexts, predictor):
        log_p_PV = logits_PV[done : done + len(next_P)].float().log_softmax(1)
        p_PV = log_p_PV.exp()
        own_P = (p_PV * log_p_PV).sum(1)
        kl_unigram_P = own_P - p_PV @ log_unigram_V
        kl_bigram_P = own_P - (p_PV * predictor.log_bigram(previous_P)).sum(1)
        nll_P1 = -log_p_PV.gather(1, next_P[:, None])
        sums += torch.stack([part.sum(dtype=torch.float64) for part in (kl_unigram_P, kl_bigram_P, nll_P1)]).cpu()
        done += len(next_P)
    return sums


def _means(sums: Sequence[Tensor], tokens: int) -> list[float]:
    """Add up the sums of batches, and take the mean over tokens."""
    means: list[float] = (torch.stack(list(sums)).sum(0) / tokens).tolist()
    return means


def _positions(contexts: Contexts, predictor: NgramPredictor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tokens that are predicted with those before them, a few at a time."""
    size = max(1, ENTRIES_AT_ONCE // predictor.vocabulary)
    ids = [part[contexts.counted].to(predictor.device) for part in (contexts.tokens[:, :-1], contexts.tokens[:, 1:])]
    yield from zip(*(torch.split(part, size) for part in ids), strict=True)
