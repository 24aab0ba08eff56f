"""The corpus: documents of a source, split by document, as a `datasets` folder."""

import hashlib
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from numpy.typing import NDArray

from ontogeny.command import progress
from ontogeny.config.corpus import CorpusSettings
from ontogeny.errors import UserError
from ontogeny.files import atomic_folder, write_json
from ontogeny.provenance import provenance
from ontogeny.randomness import generator
from ontogeny.sources import Document, documents, source_name
from ontogeny.splits import in_batches

FEATURES = datasets.Features({"id": datasets.Value("string"), "text": datasets.Value("large_string")})
"""Columns of a split; `large_string` since documents of a batch may exceed 2 GB together."""


class Collected(NamedTuple):
    """All documents that hold text, in order."""

    characters: NDArray[np.int64]
    """Characters of each document, (documents,)."""
    blank: int
    """Documents left out since they held nothing but white space."""
    hash: str
    """Hash of ids and texts in order."""


def write_corpus(corpus: CorpusSettings, seed: int, manifest: Path, study: Path | None) -> dict[str, float]:
    """Write the corpus's folder, whole or not at all: splits `train` and `heldout`, and its manifest.

    Args:
        corpus: the source, the heldout share and the largest number of documents.
        seed: seed of the study; with the number of documents, it decides which are held out.
        manifest: the `manifest.json` to write; its folder becomes the corpus.
        study: the study's `study.json`.

    Returns:
        How many documents and characters there are.

    Raises:
        UserError: the source cannot be read, holds no text, or holds too few documents for two splits.
    """
    datasets.disable_progress_bars()
    with atomic_folder(manifest.parent) as folder:
        with TemporaryDirectory(dir=folder) as cache:
            collected = _collect(corpus, Path(cache))
            chosen = _split(corpus, seed, len(collected.characters))
            _save(Path(cache), chosen, collected.hash, folder)
        digest = hashlib.blake2b(collected.hash.encode(), digest_size=16)
        digest.update(chosen["heldout"].astype("<i8").tobytes())
        value = {
            "documents": {split: len(rows) for split, rows in chosen.items()},
            "characters": {split: int(collected.characters[rows].sum()) for split, rows in chosen.items()},
            "blank_documents_left_out": collected.blank,
            "content_hash": digest.hexdigest(),
            "source": corpus.model_dump(mode="json"),
            "seed": seed,
            "provenance": provenance(study),
        }
        write_json(folder / manifest.name, value)
    return {"documents": len(collected.characters), "characters": int(collected.characters.sum())}


def heldout_documents(seed: int, total: int, share: float) -> NDArray[np.int64]:
    """Draw which of `total` documents are held out, ascending; at least one and never all."""
    count = min(max(round(total * share), 1), total - 1)
    return np.sort(generator(seed, "heldout").permutation(total)[:count])


def _split(corpus: CorpusSettings, seed: int, total: int) -> dict[str, NDArray[np.int64]]:
    """Number the documents of each split."""
    if total == 1:
        raise UserError(
            f"{source_name(corpus)}: the corpus is one document, and a split by document needs two; "
            "give more, or cut text by `corpus.document: paragraph`"
        )
    heldout = heldout_documents(seed, total, corpus.heldout)
    return {"train": np.delete(np.arange(total), heldout), "heldout": heldout}


def _collect(corpus: CorpusSettings, cache: Path) -> Collected:
    """Write all documents that hold text to one Arrow file in `cache`."""
    characters, digest, blank = array("q"), hashlib.blake2b(digest_size=16), 0

    def with_text() -> Iterator[Document]:
        nonlocal blank
        for document in documents(corpus, cache):
            if document.text.strip():
                yield document
            else:
                blank += 1

    wanted = progress(islice(with_text(), corpus.max_documents), corpus.max_documents, "documents")
    with ArrowWriter(features=FEATURES, path=str(_arrow(cache))) as writer:
        for batch in in_batches(wanted, lambda document: len(document.text)):
            writer.write_batch({name: [getattr(document, name) for document in batch] for name in FEATURES})
            for document in batch:
                characters.append(len(document.text))
                for part in map(str.encode, document):
                    digest.update(len(part).to_bytes(8, "little") + part)
        if not characters:
            raise UserError(f"{source_name(corpus)}: the corpus is empty: none of its {blank} documents holds text")
        writer.finalize()
    return Collected(np.array(characters, np.int64), blank, digest.hexdigest())


def _save(cache: Path, chosen: dict[str, NDArray[np.int64]], digest: str, folder: Path) -> None:
    """Distribute the collected documents over the folders of the splits."""
    data = datasets.Dataset.from_file(str(_arrow(cache)))
    splits = {split: data.select(rows, new_fingerprint=f"{digest}{split}") for split, rows in chosen.items()}
    datasets.DatasetDict(splits).save_to_disk(str(folder))


def _arrow(cache: Path) -> Path:
    return cache / "documents.arrow"
