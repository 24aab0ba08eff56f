"""Which firings of each latent are shown: the strongest ones, and some of every band of its activation range."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.config.evaluation import FeatureSettings
from ontogeny.evaluation.sparse import FiringsByLatent
from ontogeny.randomness import generator

TOP = -1
"""Group of the strongest firings; other groups are bands, counted from 0."""

Integers = NDArray[np.int64]


class Chosen(NamedTuple):
    """Firings, (M,) each: by latent, the strongest first and then band by band, the strongest of each first."""

    latent: Integers
    """Number of the latent."""
    group: Integers
    """`TOP`, or the number of the band."""
    rank: Integers
    """Rank within the group, 0 the strongest."""
    row: Integers
    """Number of the row in all shards together."""
    activation: NDArray[np.float32]
    """How strongly."""

    def part(self, chosen: slice) -> "Chosen":
        """Take some that follow each other."""
        return Chosen(
            self.latent[chosen], self.group[chosen], self.rank[chosen], self.row[chosen], self.activation[chosen]
        )


def choose(firings: FiringsByLatent, place_R: Integers, context_R: Integers, settings: FeatureSettings) -> Chosen:
    """Choose the firings of every latent that are shown.

    Args:
        firings: all of them.
        place_R: a number for each row that says where in the text it is, whatever order rows are in.
        context_R: context of each row.
        settings: how many.
    """
    parts = [_no_firings()]
    for latent in range(firings.latents):
        row, activation = firings.of(latent)
        # Equal activations go by place: the order in which rows arrive changes nothing.
        order = np.lexsort((place_R[row], -activation))
        row, activation = row[order], activation[order]
        top = strongest(context_R[row], settings.samples)
        groups = [top, *from_bands(context_R[row], top, latent, settings)]
        chosen = np.concatenate(groups)
        sizes = [len(group) for group in groups]
        group = np.repeat(np.arange(TOP, len(groups) + TOP), sizes)
        rank = np.concatenate([np.arange(size) for size in sizes])
        parts.append(Chosen(np.full(len(chosen), latent), group, rank, row[chosen], activation[chosen]))
    return Chosen(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def strongest(context_N: Integers, count: int) -> Integers:
    """Choose the first firings of different contexts, so that they are not of the same sentence.

    Args:
        context_N: contexts of the firings of a latent, the strongest first.
        count: how many.

    Returns:
        Their numbers, ascending (shape: [count], or fewer).
    """
    return _first_of_each(context_N)[:count]


def from_bands(context_N: Integers, top: Integers, latent: int, settings: FeatureSettings) -> list[Integers]:
    """Draw firings from each band of a latent's activation range, no two of one context and none of the strongest.

    Band q of Q holds the firings between the q/Q and the (q+1)/Q quantile of the latent's positive activations, equal
    numbers of them. What is drawn depends on the firings, the seed and the latent alone.

    Args:
        context_N: contexts of the firings of a latent, the strongest first.
        top: numbers of the strongest ones.
        latent: number of the latent.
        settings: how many of each band, how many bands, and the seed.

    Returns:
        For each band the numbers of its firings, ascending.
    """
    total = len(context_N)
    band_N = np.arange(total - 1, -1, -1) * settings.quantiles // max(total, 1)
    drawn = generator(settings.quantile_seed, "samples by quantile", latent).permutation(total)
    drawn = drawn[~np.isin(drawn, top)]
    drawn = drawn[_first_of_each(context_N[drawn])]
    bands = (drawn[band_N[drawn] == band] for band in range(settings.quantiles))
    return [np.sort(own[: settings.quantile_samples]) for own in bands]


def _first_of_each(value_N: Integers) -> Integers:
    """Find where values occur first, ascending."""
    return np.sort(np.unique(value_N, return_index=True)[1])


def _no_firings() -> Chosen:
    nothing = np.empty(0, np.int64)
    return Chosen(nothing, nothing, nothing, nothing, np.empty(0, np.float32))
