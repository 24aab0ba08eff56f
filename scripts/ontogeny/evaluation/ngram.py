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
from ontogeny.evaluation.ratio import ratio_over_groups
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
    standard_error: float
    """Its standard error over documents; not a number of `discount`, or where there is one document."""
    tokens: int
    """Tokens that it was measured on."""
    groups: int | None
    """Documents that these are of; None of `discount`."""


def write_ngram(
    model: str, steps: Sequence[int], models: Path, train: Path, heldout: Path, settings: NgramSettings, out: Path
) -> dict[str, float]:
    """Compare every checkpoint of a model with the n-grams of the training text, and write a table.

    Its rows are, for each step, `kl_unigram` and `kl_bigram`, the mean over heldout positions of KL(model || n-gram) in
    nats, and `nll`, the model's own loss on the same tokens; without a step, `nll_unigram` and `nll_bigram`, the losses
    of the n-grams (cross-entropies), and `discount`, d of the bigrams, whose `tokens` are those that were counted.
    Standard errors are over documents.

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
    rows = [Row(model, None, "discount", predictor.discount, float("nan"), counts.tokens, None)]
    rows += _rows(model, None, PREDICTORS, [predictor_losses(predictor, part) for part in parts], contexts)
    for step in progress(steps, len(steps), "checkpoints"):
        bridge = load_model(models / checkpoint_key(model, step))
        found = [divergences(predictor, logits(bridge, part.tokens), part) for part in parts]
        rows += _rows(model, step, MEASURES, found, contexts)
        # Else it would stay in memory while the next one is loaded.
        del bridge
    write_csv(out, pd.DataFrame(rows, columns=Row._fields).astype({"step": "Int64", "groups": "Int64"}))
    return {"tokens": tokens * len(steps), "counted": counts.tokens}


@torch.inference_mode()
def predictor_losses(predictor: NgramPredictor, contexts: Contexts) -> Tensor:
    """Sum the losses of the n-grams on the tokens that are counted.

    Returns:
        Sums for `PREDICTORS` in nats, by context (shape: [B, 2], float64, on the CPU).
    """
    log_unigram_V = predictor.log_unigram()
    found = []
    for previous_P, next_P in _positions(contexts, predictor):
        log_bigram_P = predictor.log_bigram(previous_P).gather(1, next_P[:, None])[:, 0]
        found.append(-torch.stack([log_unigram_V[next_P], log_bigram_P], 1).double())
    return _by_context(found, contexts)


@torch.inference_mode()
def divergences(predictor: NgramPredictor, logits_BTV: Tensor, contexts: Contexts) -> Tensor:
    """Sum what a model's predictions lose against n-grams: KL(model || n-gram) = sum_w p(w) (ln p(w) - ln q(w)).

    Args:
        predictor: the n-grams.
        logits_BTV: the model's logits at every position, (B, T, V).
        contexts: what it read, and which positions count.

    Returns:
        Sums for `MEASURES` in nats over positions, by context (shape: [B, 3], float64, on the CPU).
    """
    log_unigram_V = predictor.log_unigram()
    logits_PV = logits_BTV[:, :-1][contexts.counted.to(logits_BTV.device)]
    found, done = [], 0
    for previous_P, next_P in _positions(contexts, predictor):
        log_p_PV = logits_PV[done : done + len(next_P)].float().log_softmax(1)
        p_PV = log_p_PV.exp()
        own_P = (p_PV * log_p_PV).sum(1)
        kl_unigram_P = own_P - p_PV @ log_unigram_V
        kl_bigram_P = own_P - (p_PV * predictor.log_bigram(previous_P)).sum(1)
        nll_P = -log_p_PV.gather(1, next_P[:, None])[:, 0]
        found.append(torch.stack([kl_unigram_P, kl_bigram_P, nll_P], 1).double())
        done += len(next_P)
    return _by_context(found, contexts)


def _by_context(parts: Sequence[Tensor], contexts: Contexts) -> Tensor:
    """Sum what was measured of each counted position (shape: [P, N] in all) over contexts (shape: [B, N])."""
    measured_PN = torch.cat(list(parts)).cpu()
    context_P = contexts.counted.nonzero()[:, 0]
    return measured_PN.new_zeros(len(contexts.counted), measured_PN.shape[1]).index_add_(0, context_P, measured_PN)


def _rows(
    model: str, step: int | None, metrics: Sequence[str], sums: Sequence[Tensor], contexts: Contexts
) -> list[Row]:
    """Take the means over tokens of sums by context, which come in batches, and their errors over documents."""
    tokens_B = contexts.counted.sum(1)
    found = ratio_over_groups(torch.cat(list(sums)), tokens_B, contexts.document)
    measured = zip(metrics, found.mean.tolist(), found.standard_error.tolist(), strict=True)
    return [Row(model, step, *own, int(tokens_B.sum()), found.groups) for own in measured]


def _positions(contexts: Contexts, predictor: NgramPredictor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tokens that are predicted with those before them, a few at a time."""
    size = max(1, ENTRIES_AT_ONCE // predictor.vocabulary)
    ids = [part[contexts.counted].to(predictor.device) for part in (contexts.tokens[:, :-1], contexts.tokens[:, 1:])]
    yield from zip(*(torch.split(part, size) for part in ids), strict=True)
