"""Rows: which token positions a shard holds, and in which order."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.config.activations import RowsSettings
from ontogeny.errors import UserError
from ontogeny.hdf5 import open_arrays, write_arrays
from ontogeny.provenance import provenance
from ontogeny.randomness import generator
from ontogeny.tokens import read_tokens

Integers = NDArray[np.int32]

COLUMNS = ("context", "position", "document", "token")
"""Datasets of a rows file, one int32 each a row."""


class Rows(NamedTuple):
    """The rows of one shard in stored order; every column has shape (rows,)."""

    context: Integers
    """Index of the context in the split's tokens."""
    position: Integers
    """Position within the context."""
    document: Integers
    """Index of the document in the split's corpus."""
    token: Integers
    """Token id at the position."""
    hash: str
    """Hash of contexts and positions; shards of all sites carry the same one."""
    tokens_hash: str
    """Content hash of the tokens that the rows were chosen from."""


def choose_rows(settings: RowsSettings, lengths: NDArray[np.integer]) -> tuple[Integers, Integers]:
    """Choose the rows of one shard from (seed, split, number, rows_per_shard, lengths) and nothing else.

    The contexts of the split are permuted and their usable positions laid end to end; shard n takes the stretch that
    begins at n * rows_per_shard and shuffles it. So full shards stay as they are when more rows are asked for, shards
    are disjoint, and together they meet every usable position once. A position is usable by its number, never by its
    token id: id 0 is a common token and Pythia's BOS.

    Args:
        settings: what decides the rows.
        lengths: positions used in each context, BOS included (shape: [contexts]).

    Returns:
        Contexts and positions in stored order (shape: [rows] each).

    Raises:
        UserError: the split has too few usable positions, or the shard would overlap the next one.
    """
    if settings.rows > settings.rows_per_shard:
        raise UserError(f"a shard of {settings.rows} rows exceeds rows_per_shard {settings.rows_per_shard}; lower rows")
    first = 0 if settings.keep_first_position else 1
    order = generator(settings.seed, "contexts", settings.split).permutation(len(lengths))
    usable = np.maximum(lengths[order].astype(np.int64) - first, 0)
    ends = np.cumsum(usable)
    start = settings.number * settings.rows_per_shard
    stop = start + settings.rows
    total = int(usable.sum())
    if stop > total:
        raise UserError(
            f"activations.{settings.split}_rows: {stop} rows are asked for, but the {settings.split} split has {total} "
            f"usable positions; lower it to at most {total}, or give the study more text (corpus, tokens.max_tokens)"
        )
    places = np.arange(start, stop)
    index = np.searchsorted(ends, places, side="right")
    position = places - (ends - usable)[index] + first
    shuffle = generator(settings.seed, "rows", settings.split, settings.number).permutation(stop - start)
    return order[index][shuffle].astype(np.int32), position[shuffle].astype(np.int32)


def rows_hash(context: Integers, position: Integers) -> str:
    """Hash the identity and the order of rows (blake2b of the int32 bytes of contexts, then of positions)."""
    digest = hashlib.blake2b(context.astype("<i4").tobytes(), digest_size=16)
    digest.update(position.astype("<i4").tobytes())
    return digest.hexdigest()


def write_rows(settings: RowsSettings, tokens_path: Path, out: Path, study: Path | None) -> dict[str, float]:
    """Choose the rows of one shard and write them.

    Args:
        settings: what decides the rows.
        tokens_path: `tokens/<split>.h5`.
        out: the rows file, `activations/rows/<shard>.h5`.
        study: the study's `study.json`, or None.

    Returns:
        Counts for the cost line: rows, and documents and contexts that they come from.

    Raises:
        UserError: too few usable positions, damaged tokens, or a full disk.
    """
    tokens = read_tokens(tokens_path)
    context, position = choose_rows(settings, tokens.length)
    columns = (context, position, tokens.document[context], tokens.tokens[context, position])
    attributes = {
        "split": settings.split,
        "number": settings.number,
        "seed": settings.seed,
        "tokens_hash": tokens.hash,
        "rows_hash": rows_hash(context, position),
        "provenance": json.dumps(provenance(study)),
    }
    arrays = {name: column.astype(np.int32) for name, column in zip(COLUMNS, columns, strict=True)}
    write_arrays(out, arrays, attributes)
    counts = {"rows": len(context), "contexts": len(np.unique(context)), "documents": len(np.unique(columns[2]))}
    return {name: float(count) for name, count in counts.items()}


class RowsDescription(NamedTuple):
    """What a rows file says before its columns are read."""

    rows: int
    """How many rows there are."""
    hash: str
    """Hash of contexts and positions."""


def describe_rows(path: Path) -> RowsDescription:
    """Read what a rows file holds, but not its columns.

    Raises:
        UserError: the file is missing or is not whole.
    """
    stored = open_arrays(path, dict.fromkeys(COLUMNS, ("int32",)), ("rows_hash", "tokens_hash", "crc32"))
    return RowsDescription(len(stored.arrays["context"]), str(stored.attributes["rows_hash"]))


def read_rows(path: Path) -> Rows:
    """Read a rows file.

    Raises:
        UserError: the file is missing, damaged, or its columns differ in length.
    """
    stored = open_arrays(path, dict.fromkeys(COLUMNS, ("int32",)), ("rows_hash", "tokens_hash", "crc32"))
    context, position, document, token = columns = [np.array(stored.arrays[name]) for name in COLUMNS]
    stored.verify()
    if len({column.shape for column in columns}) > 1:
        shapes = ", ".join(f"{name} {column.shape}" for name, column in zip(COLUMNS, columns, strict=True))
        raise UserError(f"{path}: columns differ in length ({shapes}); delete it and run again")
    return Rows(
        context, position, document, token, str(stored.attributes["rows_hash"]), str(stored.attributes["tokens_hash"])
    )
