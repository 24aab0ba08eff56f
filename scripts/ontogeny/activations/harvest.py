"""Harvest: one shard of every hook of a checkpoint, in one forward pass per context."""

import json
from collections.abc import Iterable, Iterator, Sequence
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
    tokens = read_tokens(tokens_path)
    rows = rows_of_tokens(rows_path, tokens, tokens_path)
    model = open_checkpoint(settings, checkpoint, tokens, tokens_path)
    work = list(batches(rows, settings.batch_contexts))
    shown = progress(work, len(rows.context), "rows", lambda batch: len(batch.row))
    activations = read_activations(model, tokens, shown, len(rows.context), hooks)
    record = json.loads(checkpoint.read_text(encoding="utf-8"))
    made = provenance(study) | {"weights_crc32": json.dumps(record["weights_crc32"])}
    for hook, activations_BD in activations.items():
        site = Site(record["model"], record["step"], hook)
        write_shard(out / hook / rows_path.name, activations_BD, site, rows.hash, settings.dtype, made)
    return {"rows": float(len(rows.context)), "tokens": float(sum(len(b.contexts) * b.length for b in work))}


def rows_of_tokens(path: Path, tokens: Tokens, tokens_path: Path) -> Rows:
    """Read the rows of a shard.

    Raises:
        UserError: the file is missing or damaged, or its rows are those of other tokens.
    """
    rows = read_rows(path)
    if rows.tokens_hash != tokens.hash:
        raise UserError(
            f"{path}: its rows were chosen from tokens {rows.tokens_hash}, but {tokens_path} holds {tokens.hash}; "
            f"{MEND}"
        )
    return rows


def open_checkpoint(
    settings: HarvestSettings, checkpoint: Path, tokens: Tokens, tokens_path: Path
) -> TransformerBridge:
    """Load the model of a checkpoint that is to read some tokens.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or its model does not fit the tokens.
    """
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: there is no such file; run the rule that writes the checkpoint")
    model = load_model(checkpoint.parent, settings.precision)
    _check_fit(model, checkpoint, tokens, tokens_path)
    return model


def read_activations(
    model: TransformerBridge, tokens: Tokens, work: Iterable[Batch], rows: int, hooks: Sequence[str]
) -> dict[str, Floats]:
    """Run contexts through a model and return what `hooks` carry at the rows, in stored order.

    Args:
        model: from `open_checkpoint`.
        tokens: the split's tokens.
        work: `batches` of the rows of one shard.
        rows: how many rows they are together.
        hooks: hook points.

    Returns:
        Activations by hook (shape: [rows, d_model] each, float32).
    """
    device = next(model.parameters()).device
    activations: dict[str, Floats] = {}
    for batch in work:
        tokens_BT = torch.from_numpy(tokens.tokens[batch.contexts, : batch.length].astype(np.int64)).to(device)
        context, position = (torch.from_numpy(index.astype(np.int64)).to(device) for index in batch[2:4])
        for hook, x_BTD in hooked_activations(model, tokens_BT, hooks).items():
            read_BD = x_BTD[context, position].float().cpu().numpy()
            if hook not in activations:
                activations[hook] = np.empty((rows, read_BD.shape[1]), np.float32)
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
