"""Means over tokens of a text, with a standard error that knows that tokens of one document are alike."""

from typing import NamedTuple

import torch
from torch import Tensor


class Ratio(NamedTuple):
    """Means over items that come in groups of unlike size."""

    mean: Tensor
    """Sum over all items by their number, float64 (shape: [N])."""
    standard_error: Tensor
    """Its standard error, groups being drawn and not items, float64 (shape: [N]); not a number with one group."""
    groups: int
    """Groups that have items."""


def ratio_over_groups(sums_BN: Tensor, items_B: Tensor, group_B: Tensor) -> Ratio:
    """Average over items, with the standard error over groups (Cochran 1977, *Sampling Techniques*, section 2.11).

    With the sum s_g and the number n_g of the items of group g, of G, the mean is r = sum s_g / sum n_g, and its
    variance G / (G - 1) sum (s_g - r n_g)^2 / (sum n_g)^2; for groups of one size, that of the mean of their means.

    Args:
        sums_BN: N numbers, summed over the items of each part of a group (shape: [B, N]).
        items_B: items of each part (shape: [B]).
        group_B: group of each part, any integers (shape: [B]).
    """
    names_G, place_B = torch.unique(group_B, return_inverse=True)
    items_G = torch.zeros(len(names_G), dtype=torch.float64).index_add_(0, place_B, items_B.double())
    sums_GN = torch.zeros(len(names_G), sums_BN.shape[1], dtype=torch.float64).index_add_(0, place_B, sums_BN.double())
    total, groups = items_G.sum(), int((items_G > 0).sum())
    mean_N = sums_GN.sum(0) / total
    residual_GN = sums_GN - items_G[:, None] * mean_N
    degrees = groups - 1 if groups > 1 else float("nan")
    return Ratio(mean_N, (residual_GN.square().sum(0) * groups / degrees).sqrt() / total, groups)
