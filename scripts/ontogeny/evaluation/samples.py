"""Samples of text in which features fire, with a window of tokens around each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ontogeny.activations.rows import Rows
from ontogeny.errors import UserError
from ontogeny.evaluation.sparse import SparseActivations
from ontogeny.evaluation.top import Firings
from ontogeny.tokens import Tokens

SAMPLES_AT_ONCE = 65536
"""Samples that are laid out together; a row group of the file."""

SAMPLES_SCHEMA = pa.schema(
    [
        ("feature", pa.int32()),
        ("rank", pa.int32()),
        ("activation", pa.float32()),
        ("document", pa.int32()),
        ("context", pa.int32()),
        ("position", pa.int32()),
        ("start", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("texts", pa.list_(pa.string())),
        ("activations", pa.list_(pa.float32())),
    ]
)
"""Columns of `samples.parquet`; `start` is the position of the first token of the window."""


class RowIndex:
    """Rows of all shards one after the other, found again by context and position."""

    def __init__(self, rows: Sequence[Rows]) -> None:
        context = np.concatenate([shard.context for shard in rows])
        position = np.concatenate([shard.position for shard in rows])
        self._positions = int(position.max()) + 1
        key = self._key(context, position)
        self._row = np.argsort(key)
        self._sorted = key[self._row]

    def find(self, context: NDArray[np.integer], position: NDArray[np.integer]) -> NDArray[np.int64]:
        """Find the row of each pair, (N,); -1 where no row was read there."""
        key = self._key(context, position)
        place = np.minimum(np.searchsorted(self._sorted, key), len(self._sorted) - 1)
        return np.where((self._sorted[place] == key) & (position < self._positions), self._row[place], -1)

    def _key(self, context: NDArray[np.integer], position: NDArray[np.integer]) -> NDArray[np.int64]:
        return context.astype(np.int64) * self._positions + position


class Windows(NamedTuple):
    """The tokens around samples, end to end."""

    start: NDArray[np.int64]
    """Position of the first token of each sample, (M,)."""
    ends: NDArray[np.int64]
    """Where samples begin and end among all tokens, (M + 1,)."""
    sample: NDArray[np.int64]
    """Sample that each token belongs to, (N,)."""
    position: NDArray[np.int64]
    """Position of each token in its context, (N,)."""


def windows(position: NDArray[np.integer], length: NDArray[np.integer], reach: int) -> Windows:
    """Lay out the positions from `reach` before to `reach` after each sample, as far as its context goes.

    Args:
        position: where samples are, (M,).
        length: positions used in their contexts, (M,).
        reach: tokens before and after.
    """
    start = np.maximum(position.astype(np.int64) - reach, 0)
    stop = np.minimum(position.astype(np.int64) + reach + 1, length)
    ends = np.concatenate([[0], np.cumsum(stop - start)])
    sample = np.repeat(np.arange(len(start)), stop - start)
    return Windows(start, ends, sample, np.arange(ends[-1]) - ends[sample] + start[sample])


def token_texts(tokenizer: Path, vocab_size: int) -> pa.Array:
    """Decode every token of a vocabulary by itself, (V,).

    A token that is part of a character becomes the replacement character, one that the tokenizer has not the empty
    text; special tokens are spelt out.

    Raises:
        UserError: there is no tokenizer in the file.
    """
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer}: no such file; expected a tokenizer.json of the tokenizers library")
    decoder = Tokenizer.from_file(str(tokenizer))
    return pa.array(decoder.decode_batch([[token] for token in range(vocab_size)], skip_special_tokens=False))


def sample_tables(
    firings: Firings,
    rank: NDArray[np.int64],
    tokens: Tokens,
    texts: pa.Array,
    index: RowIndex,
    activations: SparseActivations,
    reach: int,
) -> Iterator[pa.Table]:
    """Lay out samples as tables by `SAMPLES_SCHEMA`, a bounded number at a time.

    Args:
        firings: where features fire most, by feature and rank.
        rank: rank of each within its feature, 0 the strongest.
        tokens: contexts of the heldout split.
        texts: text of every token, (V,).
        index: rows whose activations were read.
        activations: all firings, by number of row in `index`.
        reach: tokens before and after.
    """
    for first in range(0, len(rank), SAMPLES_AT_ONCE):
        chosen = slice(first, first + SAMPLES_AT_ONCE)
        yield _sample_table(firings.take(chosen), rank[chosen], tokens, texts, index, activations, reach)


def _sample_table(
    firings: Firings,
    rank: NDArray[np.int64],
    tokens: Tokens,
    texts: pa.Array,
    index: RowIndex,
    activations: SparseActivations,
    reach: int,
) -> pa.Table:
    window = windows(firings.position, tokens.length[firings.context], reach)
    context = firings.context[window.sample]
    token = tokens.tokens[context, window.position].astype(np.int32)
    row = index.find(context, window.position)
    activation = activations.at(np.maximum(row, 0), firings.latent[window.sample])
    ends = pa.array(window.ends.astype(np.int32))
    columns = [
        firings.latent,
        rank,
        firings.activation,
        tokens.document[firings.context],
        firings.context,
        firings.position,
        window.start,
        pa.ListArray.from_arrays(ends, pa.array(token)),
        pa.ListArray.from_arrays(ends, texts.take(pa.array(token))),
        pa.ListArray.from_arrays(ends, pa.array(activation, mask=row < 0)),
    ]
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, SAMPLES_SCHEMA, strict=True)]
    return pa.table(arrays, schema=SAMPLES_SCHEMA)
