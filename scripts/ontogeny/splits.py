"""The splits of a corpus on disk."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import datasets

from ontogeny.errors import UserError, first_line

CHARACTERS_AT_ONCE = 2**21
"""Characters of a batch of texts; only a longer text makes a larger one."""

OVERHEAD = 64
"""Characters that an item counts for beside its own, so that batches of tiny texts stay small too."""

ItemT = TypeVar("ItemT")


def read_split(manifest: Path, split: str) -> datasets.Dataset:
    """Open a split of the corpus, `train` or `heldout`, as a memory map with columns `id` and `text`.

    Args:
        manifest: the corpus's `manifest.json`, beside its splits.
        split: name of the split.

    Raises:
        UserError: the corpus is missing or damaged.
    """
    datasets.disable_progress_bars()
    try:
        documents = json.loads(manifest.read_text(encoding="utf-8"))["documents"][split]
        data = datasets.load_from_disk(str(manifest.parent / split))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest}: no whole corpus ({first_line(error)}); delete {manifest.parent}/ and run again"
        ) from None
    if len(data) != documents:
        raise UserError(
            f"{manifest.parent / split}: {len(data)} documents, not the {documents} of {manifest.name}; "
            f"delete {manifest.parent}/ and run again"
        )
    return data


def text_batches(data: datasets.Dataset) -> Iterator[list[str]]:
    """Yield the texts of a split in order, in batches of bounded size."""
    rows = data.select_columns("text").iter(batch_size=128)
    return in_batches((text for columns in rows for text in columns["text"]), len)


def in_batches(items: Iterable[ItemT], characters: Callable[[ItemT], int]) -> Iterator[list[ItemT]]:
    """Group items in order into batches of about `CHARACTERS_AT_ONCE`."""
    batch: list[ItemT] = []
    size = 0
    for item in items:
        batch.append(item)
        size += characters(item) + OVERHEAD
        if size >= CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
