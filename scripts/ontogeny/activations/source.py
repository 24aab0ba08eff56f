"""Where the activations of several sites come from: shards on disk, or models that run as rows are asked for."""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from ontogeny.activations.store import AlignedShard, open_aligned, open_shard
from ontogeny.config.streamed import FILE
from ontogeny.sites import Site

STREAMING = "ontogeny.activations.streaming"
"""Imported where a study is streamed alone: what reads shards does not depend on the code that makes them."""

Opener = Callable[[int], AlignedShard]
"""Opens a shard, at every site, by its number among those of a source."""


class Source(Protocol):
    """Shards of several sites by their numbers, in the order of their names."""

    def rows(self) -> list[int]:
        """Count the rows of each shard, without reading any."""

    def described(self) -> list[AlignedShard]:
        """Say what each shard holds, without its values.

        Raises:
            UserError: one is missing or damaged, or sites disagree about rows or widths.
        """

    def opener(self, groups: Iterable[Sequence[int]], verify: bool = True) -> Opener:
        """Begin to read.

        Args:
            groups: numbers of shards in the order in which they will be asked for; those of a group are asked for in
                any order, and as often as one likes, before those of the next. What streams makes the next ready.
            verify: read every byte of a shard on disk the first time that it is opened.
        """

    def close(self) -> None:
        """Stop what is under way; openers of before are of no use any more."""


def source_of(folder: Path, sites: Sequence[Site], shards: Sequence[str]) -> Source:
    """Find where activations come from.

    Args:
        folder: the study's `activations/`, or `activations/streamed/`, which has a `streamed.json`.
        sites: the site axis, in order.
        shards: names of shards, such as `train-00000`.
    """
    if (folder / FILE).is_file():
        source: Source = import_module(STREAMING).StreamedShards(folder, sites, shards)
        return source
    return _StoredShards(folder, sites, shards)


class _StoredShards:
    """Shards on disk."""

    def __init__(self, folder: Path, sites: Sequence[Site], shards: Sequence[str]) -> None:
        self._folder, self._sites, self._shards = folder, tuple(sites), tuple(shards)
        self._verified: set[int] = set()

    def rows(self) -> list[int]:
        return [open_shard(self._folder / self._sites[0].key / f"{shard}.h5").rows for shard in self._shards]

    def described(self) -> list[AlignedShard]:
        # What is kept holds no file open.
        return [open_aligned(self._folder, self._sites, shard)._replace(shards=()) for shard in self._shards]

    def opener(self, groups: Iterable[Sequence[int]], verify: bool = True) -> Opener:
        del groups

        def open_number(number: int) -> AlignedShard:
            unread = verify and number not in self._verified
            opened = open_aligned(self._folder, self._sites, self._shards[number], unread)
            self._verified.update([number] if verify else [])
            return opened

        return open_number

    def close(self) -> None:
        pass
