"""The strongest activations of each latent, streamed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PENDING = 2**20
"""Activations that wait at least until they are sorted in."""


class Firings(NamedTuple):
    """Places where latents fire, (N,) each."""

    latent: NDArray[np.int32]
    """Number of the latent."""
    context: NDArray[np.int32]
    """Context of the split."""
    position: NDArray[np.int32]
    """Position in the context."""
    activation: NDArray[np.float32]
    """How strongly."""

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_] | slice) -> "Firings":
        """Choose some of them."""
        return Firings(self.latent[chosen], self.context[chosen], self.position[chosen], self.activation[chosen])


class TopFirings:
    """The n strongest firings of each latent, at most one per context, so that they are not of the same sentence.

    Equal activations go by context and position: the order in which rows arrive changes nothing. Memory holds n
    firings a latent and those that wait.
    """

    def __init__(self, latents: int, count: int) -> None:
        self._count = count
        self._least_L = np.zeros(latents, np.float32)
        self._parts = [_no_firings()]
        self._pending = 0
        self._limit = max(PENDING, 2 * latents * count)

    def add(self, firings: Firings) -> None:
        """Add firings with activations above 0; those that n others of their latent surpass are left out at once."""
        part = firings.take(firings.activation >= self._least_L[firings.latent])
        self._parts.append(part)
        self._pending += len(part.latent)
        if self._pending > self._limit:
            self._sort_in()

    def strongest(self) -> tuple[Firings, NDArray[np.int64]]:
        """Return what was kept, by latent and rank, and the rank of each from 0 on."""
        return self._sort_in()

    def _sort_in(self) -> tuple[Firings, NDArray[np.int64]]:
        kept, rank = strongest(_joined(self._parts), self._count)
        last = rank == self._count - 1
        self._least_L[kept.latent[last]] = kept.activation[last]
        self._parts, self._pending = [kept], 0
        return kept, rank


def strongest(firings: Firings, count: int) -> tuple[Firings, NDArray[np.int64]]:
    """Keep each latent's `count` strongest firings, one per context, sorted by latent and rank.

    Returns:
        The firings, and the rank of each within its latent from 0 on.
    """
    latent, context, position, activation = firings
    firings = firings.take(np.lexsort((position, context, -activation, latent)))
    seen = np.lexsort((firings.context, firings.latent))
    latent, context = firings.latent[seen], firings.context[seen]
    first = np.ones(len(seen), bool)
    first[1:] = (latent[1:] != latent[:-1]) | (context[1:] != context[:-1])
    firings = firings.take(np.sort(seen[first]))
    rank = np.arange(len(firings.latent)) - np.searchsorted(firings.latent, firings.latent)
    chosen = rank < count
    return firings.take(chosen), rank[chosen]


def _no_firings() -> Firings:
    return Firings(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


def _joined(parts: Sequence[Firings]) -> Firings:
    return Firings(
        np.concatenate([part.latent for part in parts]),
        np.concatenate([part.context for part in parts]),
        np.concatenate([part.position for part in parts]),
        np.concatenate([part.activation for part in parts]),
    )
