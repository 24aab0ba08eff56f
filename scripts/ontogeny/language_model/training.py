"""Training of a language model from its first step: data, model, optimiser, step, history, checkpoints."""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import GPTNeoXForCausalLM

from ontogeny.command import log, progress
from ontogeny.config.models import TrainedModel, Training
from ontogeny.errors import UserError
from ontogeny.files import write_csv
from ontogeny.language_model.checkpoint import new_checkpoint
from ontogeny.language_model.loss import linear_cross_entropy
from ontogeny.language_model.network import new_model
from ontogeny.language_model.pretrained import pretrained_model
from ontogeny.onednn import OneDNNLinear, matmul_transposed
from ontogeny.randomness import generator
from ontogeny.tensors import system_errors
from ontogeny.tokens import Tokens, read_tokens

BETAS = (0.9, 0.95)
"""Decay of AdamW's two averages, as in Pythia."""

HELDOUT_BATCH = 8
"""Contexts in one forward pass when the heldout loss is measured."""


class TrainingFiles(NamedTuple):
    """What training reads and writes."""

    train: Path
    """Tokens to train on."""
    heldout: Path
    """Tokens that the loss is measured on."""
    tokenizer: Path
    """`tokenizer.json` of the study's tokenizer."""
    start: Path | None
    """Folder of the checkpoint that training starts from, or None for new weights."""
    model: Path
    """Folder that gets `step<k>/` for every checkpoint, and `training.csv`."""
    study: Path | None
    """The study's `study.json`."""


class Row(NamedTuple):
    """A row of `training.csv`."""

    step: int
    """Optimiser steps done."""
    split: str
    """`train`: mean loss of the steps since the row before, each before its update; `heldout`: loss of a checkpoint."""
    loss: float
    """Mean next-token loss in nats."""
    learning_rate: float
    """Learning rate of the last step."""
    tokens: int
    """Tokens trained on so far; BOS is never predicted, so it does not count."""


def train_language_model(settings: TrainedModel, seed: int, files: TrainingFiles) -> dict[str, float]:
    """Train a model, write every checkpoint when it is reached, and `training.csv` at the end.

    Args:
        settings: shape of the model, how it is trained, and at which steps it is saved; 0 is before training.
        seed: seed of the weights and of the order of contexts; the same seed gives the same bytes on one CPU
            with one number of threads.
        files: what is read and written.

    Returns:
        Steps, and tokens trained on.

    Raises:
        UserError: tokens that no model can be trained on, a loss that is not finite, or a full disk.
    """
    recipe, train, heldout = settings.training, _read(files.train), _read(files.heldout)
    model = _first_model(settings, train, files.start, seed)
    optimiser = new_optimiser(model, recipe)
    order = batches(_contexts(train, recipe.documents, files), recipe.batch_size, seed)
    measured = spaced(heldout, recipe.heldout_tokens)
    history, trained, since = list[Row](), 0, list[tuple[float, int]]()
    for step in progress(range(recipe.steps + 1), recipe.steps, "steps", lambda step: min(step, 1)):
        rate = learning_rate(recipe, step)
        if step > 0:
            loss, tokens = train_step(model, optimiser, train, next(order), rate, recipe)
            _check_finite(loss, step, rate, files.model)
            trained += tokens
            since.append((loss, tokens))
        if since and (step % recipe.log_every == 0 or step == recipe.steps):
            loss = sum(loss * tokens for loss, tokens in since) / sum(tokens for _, tokens in since)
            history.append(Row(step, "train", loss, rate, trained))
            since = []
        if step in settings.checkpoints:
            loss = mean_loss(model, heldout, measured)
            _check_finite(loss, step, rate, files.model)
            history.append(Row(step, "heldout", loss, rate, trained))
            save(model, files, step)
            log.info("step %d: heldout loss %.4f", step, loss)
    write_csv(files.model / "training.csv", pd.DataFrame(history, columns=Row._fields))
    return {"steps": recipe.steps, "tokens": trained}


def _first_model(settings: TrainedModel, tokens: Tokens, start: Path | None, seed: int) -> GPTNeoXForCausalLM:
    """Make a model with new weights, or with those of a checkpoint that was trained on tokens of the same kind."""
    context_length = tokens.tokens.shape[1]
    if start is None:
        model = new_model(settings.architecture, tokens.vocab_size, context_length, tokens.bos_id, seed)
    else:
        model = pretrained_model(start, torch.float32)
    return model.cuda() if torch.cuda.is_available() else model


def _contexts(tokens: Tokens, documents: tuple[float, float], files: TrainingFiles) -> NDArray[np.int64]:
    """Number the contexts of a part of the documents that have a token to predict."""
    chosen = np.flatnonzero((tokens.length > 1) & documents_in(tokens, documents))
    if not len(chosen):
        raise UserError(
            f"models.{files.model.name}.training.documents: no context of {files.train} is in the part "
            f"{list(documents)} of its {int(tokens.document.max()) + 1} documents; widen it"
        )
    return chosen


def documents_in(tokens: Tokens, part: tuple[float, float]) -> NDArray[np.bool_]:
    """Tell which contexts are of documents in a part of the split: parts that meet have no document in common.

    Args:
        tokens: the split; its documents are counted as far as it holds any of their tokens.
        part: from which share of the documents to which, in order.

    Returns:
        (shape: [contexts]).
    """
    first, last = np.ceil(np.array(part) * (int(tokens.document.max()) + 1))
    chosen: NDArray[np.bool_] = (tokens.document >= first) & (tokens.document < last)
    return chosen


def train_step(
    model: GPTNeoXForCausalLM,
    optimiser: torch.optim.Optimizer,
    tokens: Tokens,
    contexts: NDArray[np.int64],
    rate: float,
    recipe: Training,
) -> tuple[float, int]:
    """Change the weights once; they stay as they are where the loss or its gradient is not finite.

    Args:
        model: the model.
        optimiser: its optimiser.
        tokens: what is trained on.
        contexts: numbers of the batch's contexts.
        rate: learning rate.
        recipe: precision of the products, and largest norm of the gradient.

    Returns:
        Mean loss before the change in nats, or not a finite number, and how many tokens it is over.
    """
    precision = getattr(torch, recipe.precision)
    hidden_ND, targets_N = _read_context(model, tokens, contexts, precision)
    loss = linear_cross_entropy(hidden_ND, model.lm_head.weight, targets_N, precision)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
    if norm.isfinite():
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    optimiser.zero_grad()
    return (loss if norm.isfinite() else norm).item(), len(targets_N)


@torch.no_grad()
def mean_loss(model: GPTNeoXForCausalLM, tokens: Tokens, contexts: NDArray[np.int64]) -> float:
    """Measure the mean next-token loss in nats over all tokens of some contexts but their BOS."""
    total, predicted = 0.0, 0
    for start in range(0, len(contexts), HELDOUT_BATCH):
        hidden_ND, targets_N = _read_context(model, tokens, contexts[start : start + HELDOUT_BATCH])
        logits_NV = matmul_transposed(hidden_ND, model.lm_head.weight)
        total += functional.cross_entropy(logits_NV, targets_N, reduction="sum").item()
        predicted += len(targets_N)
    return total / predicted


def new_optimiser(model: GPTNeoXForCausalLM, recipe: Training) -> torch.optim.Optimizer:
    """Make AdamW, whose weight decay acts on matrices only: not on biases, nor on the gains of layer norms."""
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True)


def learning_rate(recipe: Training, step: int) -> float:
    """Learning rate of a step: linear from 0 up to the peak at `warmup_steps`, then a cosine down to the last step."""
    if step <= recipe.warmup_steps:
        return recipe.learning_rate * step / max(recipe.warmup_steps, 1)
    done = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    height = (1 + math.cos(math.pi * done)) / 2
    return recipe.final_learning_rate + (recipe.learning_rate - recipe.final_learning_rate) * height


def batches(contexts: NDArray[np.int64], batch_size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield batches of contexts without end, each context once an epoch, in an order of the seed and the epoch."""
    waiting = np.empty(0, np.int64)
    for epoch in count():
        waiting = np.concatenate([waiting, generator(seed, "contexts-order", epoch).permutation(contexts)])
        while len(waiting) >= batch_size:
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]


def spaced(tokens: Tokens, positions: int) -> NDArray[np.int64]:
    """Choose contexts evenly over a split: enough for so many positions, or all where there are fewer."""
    contexts = np.flatnonzero(tokens.length > 1)
    wanted = min(len(contexts), -(-positions // tokens.tokens.shape[1]))
    chosen: NDArray[np.int64] = contexts[np.arange(wanted) * len(contexts) // wanted]
    return chosen


def save(model: GPTNeoXForCausalLM, files: TrainingFiles, step: int) -> None:
    """Write a checkpoint, whole or not at all."""
    transformers.utils.logging.disable_progress_bar()
    with new_checkpoint(files.model / f"step{step}", files.tokenizer, files.study) as folder:
        with system_errors():
            model.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)


def _read_context(
    model: GPTNeoXForCausalLM, tokens: Tokens, contexts: NDArray[np.int64], precision: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Run contexts up to the unembedding, (N, D) wherever a real token follows, and give those N ids with it."""
    length_B = torch.from_numpy(tokens.length[contexts])
    tokens_BT = torch.from_numpy(tokens.tokens[contexts, : int(length_B.max())].astype(np.int64))
    follows_BT = torch.arange(1, tokens_BT.shape[1]) < length_B[:, None]
    device = model.lm_head.weight.device
    with OneDNNLinear(precision):
        hidden_BTD = model.gpt_neox(input_ids=tokens_BT.to(device)).last_hidden_state
    return hidden_BTD[:, :-1][follows_BT.to(device)], tokens_BT[:, 1:][follows_BT].to(device)


def _read(file: Path) -> Tokens:
    tokens = read_tokens(file)
    if not (tokens.length > 1).any():
        raise UserError(f"{file}: no context has a token after its BOS; give corpus more text")
    return tokens


def _check_finite(loss: float, step: int, rate: float, model: Path) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"models.{model.name}: the loss or its gradient is {loss} at step {step} (learning rate {rate:.3g}); "
            "lower training.learning_rate or training.gradient_clip, or raise training.warmup_steps"
        )
