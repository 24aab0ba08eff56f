"""Decoders of features: how they turn over sites, which other features are near, and which tokens they promote.

Features are taken in blocks, so that memory does not grow with pairs of features or with latents x vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**24
"""Numbers that are computed at once: cosines of a block of features with all others, or logits of one."""


class Extremes(NamedTuple):
    """The tokens with the most extreme logits, the most extreme first (shape: [B, K] each)."""

    promoted: Tensor
    """Ids of the tokens with the highest."""
    promoted_logits: Tensor
    """Their logits, descending."""
    suppressed: Tensor
    """Ids of the tokens with the lowest."""
    suppressed_logits: Tensor
    """Their logits, ascending."""


def rotations(W_BSD: Tensor) -> Tensor:
    """Compute the cosine of the decoders of a feature at two sites, for every pair of sites.

    Args:
        W_BSD: decoders.

    Returns:
        (shape: [B, S, S], float64); not-a-number where a norm is 0.
    """
    W_BSD = W_BSD.double()
    unit_BSD = W_BSD / W_BSD.norm(dim=2, keepdim=True)
    cosine_BSS: Tensor = unit_BSD @ unit_BSD.mT
    return cosine_BSS


def nearest(W_LV: Tensor, alive_L: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Find for every feature the others whose decoders have the highest cosine with its own.

    Args:
        W_LV: decoders over all sites, in scaled units.
        alive_L: features that may be neighbours (bool).
        count: how many.

    Yields:
        For the next block of features, numbers and cosines, descending (shape: [B, count] each, or fewer columns where
        there are fewer features); minus infinity where there is no neighbour, as for a decoder of norm 0.
    """
    norm_L = W_LV.norm(dim=1)
    candidate_L = alive_L & (norm_L > 0)
    size = max(1, BLOCK // len(W_LV))
    for start in range(0, len(W_LV), size):
        W_BV = W_LV[start : start + size]
        cosine_BL = W_BV @ W_LV.T / norm_L / norm_L[start : start + size, None]
        cosine_BL[:, ~candidate_L] = -torch.inf
        cosine_BL[norm_L[start : start + size] == 0] = -torch.inf
        cosine_BL[torch.arange(len(W_BV)), torch.arange(start, start + len(W_BV))] = -torch.inf
        values_BK, latents_BK = cosine_BL.topk(min(count, len(W_LV)), dim=1)
        yield latents_BK, values_BK


def extreme_tokens(v_LD: Tensor, unembedding_DV: Tensor, count: int) -> Iterator[Extremes]:
    """Find the tokens whose logits vectors in the residual stream raise and lower most.

    Args:
        v_LD: vectors.
        unembedding_DV: from `direct_unembedding`.
        count: how many tokens; all of them where there are fewer.

    Yields:
        What was found for the next block of vectors.
    """
    tokens = unembedding_DV.shape[1]
    for v_BD in torch.split(v_LD, max(1, BLOCK // tokens)):
        logit_BV = v_BD @ unembedding_DV
        high, low = (logit_BV.topk(min(count, tokens), dim=1, largest=largest) for largest in (True, False))
        yield Extremes(high.indices, high.values, low.indices, low.values)
