"""Which feature of one dictionary is which of another, by their decoder directions at the sites that both have."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floating = NDArray[np.floating]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

BLOCK = 2048
"""Features of the reference that are compared with all others at once."""


class Matches(NamedTuple):
    """Pairs of features that are each other's best match."""

    reference: Integers
    """Places of features of the reference, ascending (shape: [M])."""
    other: Integers
    """Places of features of the other dictionary (shape: [M])."""
    cosine: Singles
    """Their cosine (shape: [M])."""


def mutual_matches(reference_LSD: Floating, other_KSD: Floating) -> Matches:
    """Pair the features of two dictionaries that are each other's best match, so that none is in two pairs.

    The cosine of a pair is the mean over sites of the cosine of the two decoders there, weighted by the squared norm of
    the reference's decoder: sites where the reference has nothing to say count for nothing. How the norm of the other
    decoder is spread over sites is left out of it, as dates of emergence are read from that: pairs that were chosen by
    equal norms would agree on their dates whatever the dictionaries had learnt.

    Memory beyond the decoders: a copy of both in float32, and `BLOCK` x K cosines.

    Args:
        reference_LSD: decoders of the reference on scaled activations, at the sites that both have (shape: [L, S, D]).
        other_KSD: decoders of the other dictionary at the same sites in the same order (shape: [K, S, D]).
    """
    if not len(reference_LSD) or not len(other_KSD):
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    weighted_LE, unit_KE = _weighted(reference_LSD), _unit(other_KSD).reshape(len(other_KSD), -1)
    best_L = np.empty(len(weighted_LE), np.int64)
    back_K, highest_K = np.zeros(len(unit_KE), np.int64), np.full(len(unit_KE), -np.inf, np.float32)
    cosine_L = np.empty(len(weighted_LE), np.float32)
    for start in range(0, len(weighted_LE), BLOCK):
        cosines_BK = weighted_LE[start : start + BLOCK] @ unit_KE.T
        best_L[start : start + BLOCK] = cosines_BK.argmax(axis=1)
        cosine_L[start : start + BLOCK] = cosines_BK.max(axis=1)
        higher_K = cosines_BK.max(axis=0) > highest_K
        back_K[higher_K] = start + cosines_BK.argmax(axis=0)[higher_K]
        highest_K = np.maximum(highest_K, cosines_BK.max(axis=0))
    mutual = np.flatnonzero(back_K[best_L] == np.arange(len(best_L)))
    return Matches(mutual, best_L[mutual], cosine_L[mutual])


def _unit(decoders_NSD: Floating) -> Singles:
    """Divide decoders by their norms; those that are 0 stay (shape: [N, S, D])."""
    norms_NS1 = np.linalg.norm(decoders_NSD, axis=2, keepdims=True)
    unit_NSD = np.zeros(decoders_NSD.shape, np.float32)
    np.divide(decoders_NSD, norms_NS1, out=unit_NSD, where=norms_NS1 > 0, casting="same_kind")
    return unit_NSD


def _weighted(decoders_NSD: Floating) -> Singles:
    """Multiply directions by the share that their site has in the squared norm of the feature (shape: [N, S x D])."""
    squares_NS = np.square(np.linalg.norm(decoders_NSD, axis=2))
    total_N1 = squares_NS.sum(axis=1, keepdims=True)
    share_NS = np.divide(squares_NS, total_N1, out=np.zeros_like(squares_NS), where=total_N1 > 0)
    weighted_NSD = _unit(decoders_NSD)
    weighted_NSD *= share_NS[:, :, None].astype(np.float32)
    return weighted_NSD.reshape(len(weighted_NSD), -1)
