"""From documents to contexts: tokenized in batches, packed without a loop over tokens."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
from numpy.typing import NDArray

from ontogeny.command import progress
from ontogeny.config.corpus import TokensSettings
from ontogeny.errors import UserError
from ontogeny.provenance import provenance
from ontogeny.splits import read_split, text_batches
from ontogeny.tokenizer import TextTokenizer, read_tokenizer, use_threads
from ontogeny.tokens import Contexts, write_tokens


def write_contexts(
    settings: TokensSettings,
    split: str,
    corpus: Path,
    tokenizer_file: Path,
    out: Path,
    study: Path | None,
    threads: int = 1,
) -> dict[str, float]:
    """Tokenize a split of the corpus into contexts.

    Args:
        settings: length of a context, and where to stop.
        split: `train` or `heldout`.
        corpus: `manifest.json` of the corpus.
        tokenizer_file: the `tokenizer.json`.
        out: HDF5 file to write.
        study: the study's `study.json`.
        threads: CPU threads.

    Returns:
        How many contexts and tokens were written, BOS included.

    Raises:
        UserError: corpus or tokenizer cannot be read, or no document fills a context.
    """
    use_threads(threads)
    tokenizer, data = read_tokenizer(tokenizer_file), read_split(corpus, split)
    attributes: dict[str, str | int] = {
        "bos_id": tokenizer.bos_id,
        "vocab_size": tokenizer.vocab_size,
        "context_length": settings.context_length,
        "split": split,
        "tokenizer_hash": tokenizer.hash,
        "provenance": json.dumps(provenance(study)),
    }
    contexts = split_contexts(data, tokenizer, settings.context_length)
    checked = filled(contexts, settings.context_length, f"{corpus.parent / split}")
    return write_tokens(out, until(checked, settings.max_tokens), attributes)


def split_contexts(data: datasets.Dataset, tokenizer: TextTokenizer, context_length: int) -> Iterator[Contexts]:
    """Yield the contexts of a split in order, those of a batch of documents at a time."""
    first = 0
    for texts in progress(text_batches(data), len(data), "documents", len):
        encodings = tokenizer.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        part = pack(ids, tokenizer.bos_id, context_length)
        yield part._replace(document=part.document + np.int32(first))
        first += len(texts)


def pack(documents: Sequence[NDArray[np.uint32]], bos_id: int, context_length: int) -> Contexts:
    """Lay out documents as contexts: each starts with BOS, and what is left of a document opens the next one.

    Args:
        documents: token ids of each document.
        bos_id: id of the BOS token.
        context_length: positions of a context, T.

    Returns:
        Tokens (n, T), 0 from `length` on, with the number of each context's document among `documents`.
    """
    room = context_length - 1
    size = np.array([len(ids) for ids in documents], np.int64)
    contexts = -(-size // room)
    document = np.repeat(np.arange(len(documents)), contexts)
    first_context = np.cumsum(contexts) - contexts
    number = np.arange(len(document)) - first_context[document]
    used = np.minimum(size[document] - number * room, room)
    tokens = np.zeros((len(document), context_length), np.uint32)
    tokens[:, 0] = bos_id
    tokens[:, 1:][np.arange(room) < used[:, None]] = np.concatenate([*documents, np.empty(0, np.uint32)])
    return Contexts(tokens, (used + 1).astype(np.int32), document.astype(np.int32))


def until(parts: Iterator[Contexts], max_tokens: int | None) -> Iterator[Contexts]:
    """Stop with the context that brings the number of tokens, BOS included, to `max_tokens`."""
    left = max_tokens
    for part in parts:
        if left is None:
            yield part
            continue
        reached = np.cumsum(part.length)
        end = int(np.searchsorted(reached, left)) + 1
        yield Contexts(part.tokens[:end], part.length[:end], part.document[:end])
        if end <= len(reached):
            return
        left -= int(reached[-1]) if len(reached) else 0


def filled(parts: Iterator[Contexts], context_length: int, name: str) -> Iterator[Contexts]:
    """Pass all contexts of a split on.

    Raises:
        UserError: not one of them was full.
    """
    tokens = longest = 0
    for part in parts:
        tokens += int(part.length.sum())
        longest = max(longest, part.length.max(initial=0))
        yield part
    if longest < context_length:
        raise UserError(
            f"{name}: {tokens} tokens with BOS, and the longest document has {longest}, too few for one context "
            f"of {context_length}; lower tokens.context_length or give longer documents"
        )
