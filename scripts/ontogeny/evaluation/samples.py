"""Samples of text in which features fire, with a window of tokens around each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ontogeny.errors import UserError
from ontogeny.evaluation.choosing import TOP, Chosen
from ontogeny.evaluation.readings import quantised
from ontogeny.evaluation.sparse import FiringsByLatent
from ontogeny.evaluation.text_windows import RowIndex, Windows
from ontogeny.tokens import Tokens

SAMPLES_AT_ONCE = 65536
"""Samples at most that are laid out together; a row group of the file."""

READINGS_AT_ONCE = 2**23
"""Readings at most that are laid out together."""

SAMPLES_SCHEMA = pa.schema(
    [
        ("feature", pa.int32()),
        ("quantile", pa.int8()),
        ("rank", pa.int32()),
        ("activation", pa.float32()),
        ("document", pa.int32()),
        ("context", pa.int32()),
        ("position", pa.int32()),
        ("start", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("texts", pa.list_(pa.string())),
        ("activations", pa.list_(pa.float32())),
        ("readings", pa.binary()),
        ("readings_scale", pa.float32()),
    ]
)
"""Columns of `samples.parquet`.

`quantile` is the band of the feature's activation range that a sample was drawn from, and null for the strongest
samples; `rank` counts within each of these groups; `start` is the position of the first token of the window. `readings`
holds, site after site, one int8 for each token of the window: times `readings_scale` it is what the site adds to the
feature's pre-activation there, but for the encoder's bias; -128 where the token was not read.
"""


def token_texts(tokenizer: Path, vocab_size: int) -> pa.Array:
    """Decode every token of a vocabulary, (V,), as `texts_of`; one that the tokenizer has not is the empty text.

    Raises:
        UserError: there is no tokenizer in the file.
    """
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer}: no such file; expected a tokenizer.json of the tokenizers library")
    return pa.array(texts_of(Tokenizer.from_file(str(tokenizer)), range(vocab_size)))


def texts_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Decode each token by itself, as it reads within a text.

    A token that is part of a character becomes the replacement character; special tokens are spelt out.
    """
    # Decoders of the SentencePiece kind, such as Llama's, drop the space of a token that begins a text.
    before = tokenizer.encode("a", add_special_tokens=False).ids
    start = len(tokenizer.decode(before, skip_special_tokens=False))
    read = tokenizer.decode_batch([[*before, token] for token in tokens], skip_special_tokens=False)
    return [text[start:] for text in read]


def sample_tables(
    chosen: Chosen,
    window: Windows,
    tokens: Tokens,
    texts: pa.Array,
    index: RowIndex,
    activations: FiringsByLatent,
    reading_NS: NDArray[np.float32],
) -> Iterator[pa.Table]:
    """Lay out samples as tables by `SAMPLES_SCHEMA`, a bounded number at a time.

    Args:
        chosen: the samples, by feature and group.
        window: their windows.
        tokens: contexts of the heldout split.
        texts: text of every token, (V,).
        index: rows whose activations were read.
        activations: all firings, by number of row in `index`.
        reading_NS: readings of all tokens of the windows.
    """
    longest = int(np.diff(window.ends).max(initial=1))
    at_once = max(1, min(SAMPLES_AT_ONCE, READINGS_AT_ONCE // (longest * reading_NS.shape[1])))
    for first in range(0, len(chosen.rank), at_once):
        part = slice(first, min(first + at_once, len(chosen.rank)))
        own_NS = reading_NS[window.ends[part.start] : window.ends[part.stop]]
        yield _sample_table(chosen.part(part), window.part(part), tokens, texts, index, activations, own_NS)


def _sample_table(
    chosen: Chosen,
    window: Windows,
    tokens: Tokens,
    texts: pa.Array,
    index: RowIndex,
    activations: FiringsByLatent,
    reading_NS: NDArray[np.float32],
) -> pa.Table:
    sample, position = window.tokens()
    context = window.context[sample]
    token = tokens.tokens[context, position].astype(np.int32)
    row = index.find(context, position)
    activation = activations.at(np.maximum(row, 0), chosen.latent[sample])
    ends = pa.array(window.ends.astype(np.int32))
    columns = [
        chosen.latent,
        pa.array(chosen.group, mask=chosen.group == TOP),
        chosen.rank,
        chosen.activation,
        tokens.document[window.context],
        window.context,
        index.position[chosen.row],
        window.start,
        pa.ListArray.from_arrays(ends, pa.array(token)),
        pa.ListArray.from_arrays(ends, texts.take(pa.array(token))),
        pa.ListArray.from_arrays(ends, pa.array(activation, mask=row < 0)),
        *quantised(reading_NS, row < 0, window),
    ]
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, SAMPLES_SCHEMA, strict=True)]
    return pa.table(arrays, schema=SAMPLES_SCHEMA)
