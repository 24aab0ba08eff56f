"""Tokens on disk: contexts of fixed length in one HDF5 file per split."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.errors import UserError
from ontogeny.files import full_disk
from ontogeny.hdf5 import MEND, open_arrays, write_arrays

DTYPES = {"tokens": ("uint16", "uint32"), "length": ("int32",), "document": ("int32",)}
"""Datasets of the file, with the types that each may have."""

ATTRIBUTES = ("bos_id", "vocab_size", "context_length", "split", "tokenizer_hash", "content_hash", "provenance")
"""Attributes of the file."""


ROWS_AT_ONCE = 65536
"""Contexts that are hashed at once."""


class Tokens(NamedTuple):
    """A split of the corpus as contexts; each lies within one document and starts with BOS."""

    tokens: NDArray[np.unsignedinteger[Any]]
    """Token ids, (n, T), 0 from `length` on; a read-only memory map of the file."""
    length: NDArray[np.int32]
    """Positions used of each context, BOS included, (n,)."""
    document: NDArray[np.int32]
    """Document of each context by its number in the split, (n,)."""
    bos_id: int
    """Id of the BOS token; Pythia's is 0."""
    vocab_size: int
    """Ids are below it."""
    hash: str
    """Hash of the three arrays."""


class Contexts(NamedTuple):
    """Some contexts of a split, in order."""

    tokens: NDArray[np.unsignedinteger[Any]]
    """Token ids, (n, T), 0 from `length` on."""
    length: NDArray[np.int32]
    """Positions used of each context, BOS included, (n,)."""
    document: NDArray[np.int32]
    """Document of each context by its number in the split, (n,)."""


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Choose the type of token ids: uint16, or uint32 where the vocabulary has more than 65,535 entries."""
    return np.dtype(np.uint16 if vocab_size <= np.iinfo(np.uint16).max else np.uint32)


def write_tokens(path: Path, contexts: Iterable[Contexts], attributes: Mapping[str, str | int]) -> dict[str, float]:
    """Write contexts as they come, whole or not at all; memory holds 8 bytes a context.

    Args:
        path: the HDF5 file.
        contexts: at least one context in all, each (n, T) with T = `attributes["context_length"]`.
        attributes: `ATTRIBUTES` but for `content_hash`, which is made here.

    Returns:
        How many contexts and tokens were written, BOS included.

    Raises:
        UserError: the disk is full.
    """
    dtype = token_dtype(int(attributes["vocab_size"]))
    lengths, documents = [], []
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk(path), tempfile.TemporaryFile(dir=path.parent) as spool:
        for part in contexts:
            spool.write(np.ascontiguousarray(part.tokens, dtype).data)
            lengths.append(part.length)
            documents.append(part.document)
        spool.flush()
        length, document = (np.concatenate(parts, dtype=np.int32) for parts in (lengths, documents))
        shape = (len(length), int(attributes["context_length"]))
        tokens = np.memmap(spool, dtype, "r", shape=shape)
        arrays = {"tokens": tokens, "length": length, "document": document}
        write_arrays(path, arrays, {**attributes, "content_hash": content_hash(arrays.values())})
    return {"contexts": len(length), "tokens": int(length.sum())}


def read_tokens(path: Path) -> Tokens:
    """Read a file of tokens once every byte of it has been verified.

    Raises:
        UserError: one line for a file that is missing, damaged, or holds no tokens.
    """
    file = open_arrays(path, DTYPES, ATTRIBUTES)
    file.verify()
    tokens, length, document = (file.arrays[name] for name in DTYPES)
    contexts = len(length)
    if tokens.ndim != 2 or length.shape != document.shape or contexts != len(tokens) or contexts == 0:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in file.arrays.items())
        raise UserError(f"{path}: arrays of tokens do not fit together: {shapes}; {MEND}")
    bos_id, vocab_size, digest = (file.attributes[key] for key in ("bos_id", "vocab_size", "content_hash"))
    return Tokens(tokens, length, document, int(bos_id), int(vocab_size), str(digest))


def content_hash(arrays: Iterable[NDArray[Any]]) -> str:
    """Hash arrays with their shapes and types, a bounded part at a time."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(json.dumps([array.shape, array.dtype.str]).encode())
        for start in range(0, len(array), ROWS_AT_ONCE):
            digest.update(np.ascontiguousarray(array[start : start + ROWS_AT_ONCE]).data)
    return digest.hexdigest()
