"""How much of a feature's activation a token explains."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""Group of a row that belongs to none."""


class RowFirings(NamedTuple):
    """Non-zero activations of some features, (N,) each."""

    row: NDArray[np.int64]
    """Number of the row."""
    feature: NDArray[np.int64]
    """Place of the feature among those that are measured."""
    activation: NDArray[np.float64]
    """Its activation."""


def explained_share(
    firings: RowFirings, group_R: NDArray[np.integer], features: int
) -> tuple[NDArray[np.float64], int]:
    """Compute the share of the variance of activations, zeros included, that lies between groups of rows.

    It is 1 - sum_g n_g s_g^2 / sum_g n_g s^2, where s_g^2 and s^2 are the variances within group g and over all rows
    with n - 1 in the denominator. Rows that are alone in their group say nothing of the variance within and are left
    out. So the share is without bias however rare groups are, and scatters around 0 (also below) for a feature that
    groups say nothing of; the plain ratio would be near 1 where most groups are small.

    Args:
        firings: activations that are not 0.
        group_R: group of each row, such as its token, or `NONE` (shape: [rows]).
        features: number of features, F.

    Returns:
        Shares, not-a-number where a feature is constant (shape: [F]), and how many rows they are from.
    """
    size_G = np.bincount(group_R[group_R != NONE])
    rows = int(size_G[size_G > 1].sum())
    group_N = group_R[firings.row]
    used_N = (group_N != NONE) & (size_G[group_N] > 1)
    feature_N, group_N, value_N = firings.feature[used_N], group_N[used_N], firings.activation[used_N]
    key_K, place_N = np.unique(feature_N * len(size_G) + group_N, return_inverse=True)
    n_K = size_G[key_K % len(size_G)] if len(key_K) else np.zeros(0)
    spread_K = np.bincount(place_N, value_N**2, len(key_K)) - np.bincount(place_N, value_N, len(key_K)) ** 2 / n_K
    within_F = np.bincount(key_K // len(size_G), n_K / (n_K - 1) * spread_K, features)
    sum_F, squares_F = (np.bincount(feature_N, value_N**power, features) for power in (1, 2))
    total_F = (squares_F - sum_F**2 / max(rows, 1)) * rows / max(rows - 1, 1)
    share_F = np.full(features, np.nan)
    np.divide(within_F, total_F, out=share_F, where=total_F > 0)
    return 1 - share_F, rows
