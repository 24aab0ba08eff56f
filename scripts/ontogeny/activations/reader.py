"""Activations for training: every row once an epoch, in a seeded order, read ahead of the step that needs them."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.activations.source import source_of
from ontogeny.activations.store import AlignedShard
from ontogeny.config.activations import OPEN_SHARDS
from ontogeny.errors import UserError
from ontogeny.randomness import generator
from ontogeny.sites import Site

BLOCK_ROWS = 256
"""Rows that are read as one piece. Rows of a shard are shuffled already, so that a piece is a random sample of it."""

BATCHES_AHEAD = 3
"""Batches that are read before a step asks for them."""

SECONDS_BETWEEN_LOOKS = 0.1
"""How often who waits for a batch asks whether it is wanted still."""


class Batch(NamedTuple):
    """Rows of one training step, or a share of them."""

    step: int
    """Number of the step over all epochs, from 0."""
    row_ids_B: NDArray[np.int64]
    """Number of each row among the rows of all shards, in the order of the shards' names as given."""
    raw_BSD: Tensor
    """Raw activations, float32."""


class Block(NamedTuple):
    """Rows `start` to `stop` of a shard."""

    shard: int
    """Number of the shard, in the order of the names as given."""
    start: int
    """First row."""
    stop: int
    """Row after the last one."""


class Reader:
    """Batches of the rows of several shards, at all sites of a dictionary.

    The order of an epoch depends on (seed, epoch) and on the sizes of shards alone: shards in a random order, eight of
    them open at a time, cut into blocks of 256 rows at an offset that differs by epoch, the blocks of open shards in a
    random order. Rows at the end of an epoch that fill no batch are left out in that epoch; no other row is, and none
    is read twice in an epoch.
    """

    def __init__(
        self,
        folder: Path,
        sites: Sequence[Site],
        shards: Sequence[str],
        batch_size: int,
        epochs: int,
        seed: int,
        share: slice | None = None,
    ) -> None:
        """Look up how many rows there are.

        Args:
            folder: the study's `activations/`.
            sites: the site axis, in order.
            shards: names of shards, such as `train-00000`.
            batch_size: rows of a batch.
            epochs: how often each row may be read.
            seed: seed of the order.
            share: which rows of every batch are read, all of them if left out; samples are always read whole.

        Raises:
            UserError: a shard is missing or damaged, sites disagree about their rows, or all rows together do not fill
                one batch.
        """
        self.folder, self.sites, self.shards = folder, tuple(sites), tuple(shards)
        self.batch_size, self.epochs, self.seed = batch_size, epochs, seed
        self.share = slice(0, batch_size) if share is None else share
        self._source = source_of(folder, self.sites, self.shards)
        # Every site, so that what does not fit is refused before the first step.
        opened = self._source.described()
        self.rows_hashes = tuple(shard.rows_hash for shard in opened)
        self.rows_of_shards = tuple(shard.rows for shard in opened)
        self.rows = sum(self.rows_of_shards)
        self.steps_per_epoch = self.rows // batch_size
        self.steps = epochs * self.steps_per_epoch
        self.seconds_waited = 0.0
        if self.steps == 0:
            raise UserError(
                f"{folder}: {len(shards)} shards hold {self.rows} rows, fewer than one batch of {batch_size}; "
                "raise activations.train_rows or lower the dictionary's batch_size"
            )
        self.d_model = opened[0].d_model

    def batches(self, first_step: int = 0, stops: Callable[[], bool] = lambda: False) -> Generator[Batch, None, None]:
        """Yield the batches from `first_step` to the last step of the last epoch.

        A thread reads a few ahead; what goes wrong there is raised here. `seconds_waited` sums the time spent waiting.

        Args:
            first_step: number of the first batch.
            stops: tells whether nobody wants to wait for more; then there are no more.
        """
        source = self._read_from(first_step)
        with ThreadPoolExecutor(1, "reader") as pool, closing(self._source):
            ahead = deque(pool.submit(next, source, None) for _ in range(BATCHES_AHEAD))
            while True:
                start = time.monotonic()
                while not stops() and not wait([ahead[0]], SECONDS_BETWEEN_LOOKS).done:
                    pass
                self.seconds_waited += time.monotonic() - start
                if stops() or (batch := ahead.popleft().result()) is None:
                    return
                ahead.append(pool.submit(next, source, None))
                yield batch

    def read(self, step: int) -> Batch:
        """Read the batch of one step.

        Raises:
            UserError: there is no such step, or a shard is damaged.
        """
        return next(self._read_from(step))

    def sample(self, rows: int, counter: int) -> Iterator[Batch]:
        """Yield batches of rows that belong to no epoch, `rows` of them or all there are, without repeating one.

        Args:
            rows: how many; whole batches, so a few more where they do not divide.
            counter: another sample for each; the steps of its batches count from 0.
        """
        blocks = blocks_of_epoch(self.rows_of_shards, self.seed, counter, "sample")
        pieces = list(islice(batches_of(blocks, self.batch_size), -(-rows // self.batch_size)))
        used = {block.shard for batch in pieces for block in batch}
        groups = groups_of_epoch(len(self.shards), self.seed, counter, "sample")
        return self._read(enumerate(pieces), ([n for n in group if n in used] for group in groups))

    def describe(self, step: int) -> str:
        """Name the rows of one step, such as `train-00000[512:768], train-00001[0:44]`."""
        pieces = next(self._pieces_from(step))
        return ", ".join(f"{self.shards[shard]}[{start}:{stop}]" for shard, start, stop in pieces)

    def _read_from(self, first_step: int) -> Iterator[Batch]:
        shares = (rows_of_batch(pieces, self.share) for pieces in self._pieces_from(first_step))
        epochs = range(first_step // self.steps_per_epoch, self.epochs)
        groups = (group for epoch in epochs for group in groups_of_epoch(len(self.shards), self.seed, epoch))
        return self._read(enumerate(shares, first_step), groups)

    def _read(self, pieces_of_steps: Iterable[tuple[int, list[Block]]], groups: Iterable[list[int]]) -> Iterator[Batch]:
        opened: dict[int, AlignedShard] = {}
        open_shard = self._source.opener(groups)
        offsets = np.cumsum((0, *self.rows_of_shards))
        for step, pieces in pieces_of_steps:
            rows = sum(stop - start for _, start, stop in pieces)
            raw_BSD = torch.empty(rows, len(self.sites), self.d_model)
            done = 0
            for shard, start, stop in pieces:
                if shard not in opened:
                    # In the place of the one opened first.
                    while len(opened) >= OPEN_SHARDS:
                        del opened[next(iter(opened))]
                    opened[shard] = open_shard(shard)
                opened[shard].read_into(start, stop, raw_BSD[done : done + stop - start].numpy())
                done += stop - start
            row_ids_B = np.concatenate([np.arange(start, stop) + offsets[shard] for shard, start, stop in pieces])
            yield Batch(step, row_ids_B, raw_BSD)

    def _pieces_from(self, first_step: int) -> Iterator[list[Block]]:
        """Yield what each batch is made of, from `first_step` on."""
        if not 0 <= first_step < self.steps:
            raise UserError(
                f"{self.folder}: there is no step {first_step} in {self.epochs} x {self.rows} rows, which are "
                f"{self.steps} steps of {self.batch_size}; raise the dictionary's epochs to read rows again"
            )
        first_epoch, skipped = divmod(first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            for pieces in batches_of(blocks_of_epoch(self.rows_of_shards, self.seed, epoch), self.batch_size):
                if skipped == 0:
                    yield pieces
                skipped = max(0, skipped - 1)


def groups_of_epoch(shards: int, seed: int, epoch: int, purpose: str = "reader") -> list[list[int]]:
    """Deal out shards among the groups that an epoch reads one after the other."""
    order = generator(seed, purpose, epoch).permutation(shards).tolist()
    return [order[first : first + OPEN_SHARDS] for first in range(0, shards, OPEN_SHARDS)]


def blocks_of_epoch(rows_of_shards: Sequence[int], seed: int, epoch: int, purpose: str = "reader") -> Iterator[Block]:
    """Yield blocks in the order in which an epoch reads them; together they are every row once."""
    random = generator(seed, purpose, epoch)
    # Draws on from where `groups_of_epoch` ends.
    random.permutation(len(rows_of_shards))
    for group in groups_of_epoch(len(rows_of_shards), seed, epoch, purpose):
        blocks: list[Block] = []
        for shard in group:
            rows = rows_of_shards[shard]
            offset = int(random.integers(1, BLOCK_ROWS, endpoint=True))
            edges = [0, *range(offset, rows, BLOCK_ROWS), rows]
            blocks += [Block(shard, start, stop) for start, stop in pairwise(edges)]
        yield from (blocks[number] for number in random.permutation(len(blocks)).tolist())


def batches_of(blocks: Iterable[Block], batch_size: int) -> Iterator[list[Block]]:
    """Cut a stream of blocks into batches of `batch_size` rows; rows that do not fill the last one are left out."""
    pieces: list[Block] = []
    wanted = batch_size
    for shard, block_start, stop in blocks:
        start = block_start
        while start < stop:
            taken = min(wanted, stop - start)
            pieces.append(Block(shard, start, start + taken))
            start, wanted = start + taken, wanted - taken
            if wanted == 0:
                yield pieces
                pieces, wanted = [], batch_size


def rows_of_batch(pieces: Sequence[Block], share: slice) -> list[Block]:
    """Cut some rows of a batch, counted from its first one, out of what it is made of."""
    taken, passed = [], 0
    for shard, start, stop in pieces:
        first, last = max(start, start + share.start - passed), min(stop, start + share.stop - passed)
        if first < last:
            taken.append(Block(shard, first, last))
        passed += stop - start
    return taken
