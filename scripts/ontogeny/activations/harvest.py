"""Harvest: one shard of every hook of a checkpoint, in one forward pass per context."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformer_lens.model_bridge import TransformerBridge

from ontogeny.activations.rows import Integers, Rows, read_rows
from ontogeny.activations.store import Floats, write_shard
from ontogeny.command import progress
from ontogeny.config.activations import HarvestSettings
from ontogeny.errors import UserError
from ontogeny.hdf5 import MEND
from ontogeny.language_model.bridge import hooked_activations, load_model
from ontogeny.provenance import provenance
from ontogeny.sites import Site
from ontogeny.tokens import Tokens, read_tokens


class Batch(NamedTuple):
    """Contexts of one forward pass, and the rows that are read from them."""

    contexts: NDArray[np.integer[Any]]
    """Indices of the contexts (shape: [batch])."""
    length: int
    """Positions that have to be run: up to the last one that is read."""
    context: NDArray[np.integer[Any]]
    """For each row read, its context's place in the batch (shape: [rows read])."""
    position: Integers
    """For each row read, its position (shape: [rows read])."""
    row: NDArray[np.integer[Any]]
    """For each row read, its place in the shard (shape: [rows read])."""


def harvest(
    settings: HarvestSettings,
    checkpoint: Path,
    tokens_path: Path,
    rows_path: Path,
    hooks: Sequence[str],
    out: Path,
    study: Path | None,
) -> dict[str, float]:
    """Read one shard of a checkpoint at several hooks and write `<out>/<hook>/<shard>.h5` for each.

    Memory beyond the model: rows x d_model x 4 bytes a hook, and one batch of activations.

    Args:
        settings: type on disk, precision of the model, contexts a forward pass.
        checkpoint: the checkpoint's `checkpoint.json`.
        tokens_path: tokens of the split.
        rows_path: the rows; its name is the shard's.
        hooks: hook points by their transformer-lens names.
        out: `activations/<model>/step<k>`.
        study: the study's `study.json`, or None.

    Returns:
        Counts for the cost line: rows and tokens run through the model.

    Raises:
        UserError: rows of other tokens, a model that does not fit the tokens, an unknown hook, a damaged file, a value
            that the type on disk cannot keep, or a full disk.
    """
    tokens, rows = _read_inputs(tokens_path, rows_path)
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: there is no such file; run the rule that writes the checkpoint")
    record = json.loads(checkpoint.read_text(encoding="utf-8"))
    model = load_model(checkpoint.parent, settings.precision)
    _check_fit(model, checkpoint, tokens, tokens_path)
    activations = read_activations(model, tokens, rows, hooks, settings.batch_contexts)
    made = provenance(study) | {"weights_crc32": json.dumps(record["weights_crc32"])}
    for hook, activations_BD in activations.items():
        site = Site(record["model"], record["step"], hook)
        write_shard(out / hook / rows_path.name, activations_BD, site, rows.hash, settings.dtype, made)
    run = sum(len(batch.contexts) * batch.length for batch in batches(rows, settings.batch_contexts))
    return {"rows": float(len(rows.context)), "tokens": float(run)}


def read_activations(
    model: TransformerBridge, tokens: Tokens, rows: Rows, hooks: Sequence[str], batch_contexts: int
) -> dict[str, Floats]:
    """Run the contexts of `rows` through a model and return what `hooks` carry at the rows, in stored order.

    Args:
        model: from `load_model`.
        tokens: the split's tokens.
        rows: the rows.
        hooks: hook points.
        batch_contexts: contexts a forward pass.

    Returns:
        Activations by hook (shape: [rows, d_model] each, float32).
    """
    device = next(model.parameters()).device
    work = list(batches(rows, batch_contexts))
    activations: dict[str, Floats] = {}
    for batch in progress(work, len(rows.context), "rows", lambda batch: len(batch.row)):
        tokens_BT = torch.from_numpy(tokens.tokens[batch.contexts, : batch.length].astype(np.int64)).to(device)
        context, position = (torch.from_numpy(index.astype(np.int64)).to(device) for index in batch[2:4])
        for hook, x_BTD in hooked_activations(model, tokens_BT, hooks).items():
            read_BD = x_BTD[context, position].float().cpu().numpy()
            if hook not in activations:
                activations[hook] = np.empty((len(rows.context), read_BD.shape[1]), np.float32)
            activations[hook][batch.row] = read_BD
    return activations


def batches(rows: Rows, batch_contexts: int) -> Iterator[Batch]:
    """Group rows by context and contexts into batches, those of similar length together, so that little is padding.

    What lies after the last position that is read is not run: in a causal model it reaches nothing before it.
    """
    order = np.lexsort((rows.position, rows.context))
    contexts, starts = np.unique(rows.context[order], return_index=True)
    stops = np.append(starts[1:], len(order))
    lengths = rows.position[order[stops - 1]] + 1
    by_length = np.argsort(lengths, kind="stable")
    for start in range(0, len(contexts), batch_contexts):
        chosen = by_length[start : start + batch_contexts]
        read = np.concatenate([order[starts[context] : stops[context]] for context in chosen])
        place = np.repeat(np.arange(len(chosen)), (stops - starts)[chosen])
        yield Batch(contexts[chosen], int(lengths[chosen].max()), place, rows.position[read], read)


def _read_inputs(tokens_path: Path, rows_path: Path) -> tuple[Tokens, Rows]:
    tokens, rows = read_tokens(tokens_path), read_rows(rows_path)
    if rows.tokens_hash != tokens.hash:
        raise UserError(
            f"{rows_path}: its rows were chosen from tokens {rows.tokens_hash}, but {tokens_path} holds {tokens.hash}; "
            f"{MEND}"
        )
    return tokens, rows


def _check_fit(model: TransformerBridge, checkpoint: Path, tokens: Tokens, tokens_path: Path) -> None:
    vocabulary, positions, length = model.cfg.d_vocab, model.cfg.n_ctx, tokens.tokens.shape[1]
    if vocabulary < tokens.vocab_size:
        raise UserError(
            f"{checkpoint}: its model knows {vocabulary} tokens, but {tokens_path} uses {tokens.vocab_size}; "
            "set tokenizer to the tokenizer of this model"
        )
    if positions < length:
        raise UserError(
            f"{checkpoint}: its model knows {positions} positions, but the contexts of {tokens_path} have {length}; "
            "lower tokens.context_length"
        )
