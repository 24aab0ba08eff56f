"""Windows of text around samples, and the rows that were read in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.activations.rows import Rows

Integers = NDArray[np.int64]


class RowIndex:
    """Rows of all shards one after the other, found again by context and position.

    Attributes:
        context: context of each row, (R,).
        position: its position there, (R,).
        place: a number for each row, in the order of contexts and positions, (R,).
        positions: positions of a context up to the last that was read; places of contexts are as far apart.
    """

    def __init__(self, rows: Sequence[Rows]) -> None:
        self.context = np.concatenate([shard.context for shard in rows])
        self.position = np.concatenate([shard.position for shard in rows])
        self.positions = int(self.position.max()) + 1
        self.place = self.place_of(self.context, self.position)
        self._row = np.argsort(self.place)
        self._sorted = self.place[self._row]

    def find(self, context: NDArray[np.integer], position: NDArray[np.integer]) -> Integers:
        """Find the row of each pair, (N,); -1 where no row was read there."""
        place = self.place_of(context, position)
        nearest = np.minimum(np.searchsorted(self._sorted, place), len(self._sorted) - 1)
        return np.where((self._sorted[nearest] == place) & (position < self.positions), self._row[nearest], -1)

    def place_of(self, context: NDArray[np.integer], position: NDArray[np.integer]) -> Integers:
        """Number the place of each pair, (N,), which is of one context for positions below `positions`."""
        return context.astype(np.int64) * self.positions + position


class Windows(NamedTuple):
    """Windows around samples; their tokens lie end to end."""

    context: Integers
    """Context of each sample, (M,)."""
    start: Integers
    """Position of the first token of each window, (M,)."""
    ends: Integers
    """Where windows begin and end among all tokens, (M + 1,)."""

    def part(self, chosen: slice) -> "Windows":
        """Take some windows that follow each other, as if there were no others."""
        ends = self.ends[chosen.start : chosen.stop + 1]
        return Windows(self.context[chosen], self.start[chosen], ends - ends[0])

    def tokens(self) -> tuple[Integers, Integers]:
        """Lay out all tokens: the window that each is in, and its position in the context, (N,) each."""
        window = np.repeat(np.arange(len(self.start)), np.diff(self.ends))
        return window, np.arange(self.ends[-1]) - self.ends[window] + self.start[window]


def windows(
    context: NDArray[np.integer], position: NDArray[np.integer], length: NDArray[np.integer], reach: int
) -> Windows:
    """Reach from `reach` tokens before to `reach` tokens after each sample, as far as its context goes.

    Args:
        context: contexts of samples, (M,).
        position: their positions, (M,).
        length: positions used in each context of the split.
        reach: tokens before and after.
    """
    start = np.maximum(position.astype(np.int64) - reach, 0)
    stop = np.minimum(position.astype(np.int64) + reach + 1, length[context])
    return Windows(context.astype(np.int64), start, np.concatenate([[0], np.cumsum(stop - start)]))


class Covering:
    """Finds the windows that a row is in."""

    def __init__(self, found: Windows, index: RowIndex) -> None:
        stop = np.minimum(found.start + np.diff(found.ends), index.positions)
        first, last = index.place_of(found.context, found.start), index.place_of(found.context, stop)
        # Windows that reach to the ends of a context share one of the two, and no window lies within another's inside.
        self._order = np.lexsort((last, first))
        self._first, self._last = first[self._order], last[self._order]

    def __call__(self, place_B: Integers) -> tuple[Integers, Integers]:
        """List the pairs of a row, by its number among those given, and a window that it is in, (N,) each."""
        begin_B = np.searchsorted(self._last, place_B, side="right")
        count_B = np.searchsorted(self._first, place_B, side="right") - begin_B
        row_N = np.repeat(np.arange(len(place_B)), count_B)
        within_N = np.arange(len(row_N)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        return row_N, self._order[begin_B[row_N] + within_N]
