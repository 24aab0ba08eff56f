"""Intervals of shares, by Wilson's formula."""

from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def wilson_interval(
    count: ArrayLike, total: ArrayLike, share: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find between what shares of a population the share found in a sample leaves it (Wilson 1927).

    With p = count / total and z standard deviations to either side of the mean, it reaches from
    (p + z^2 / 2n - z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) to the same with a plus. It lies
    within 0 and 1, and has a length where p is 0 or 1.

    Args:
        count: how many of a sample are counted (shape: [...]).
        total: n, the size of the sample (the same shape, or one number).
        share: how often such an interval is to hold the truth.

    Returns:
        Low and high, shares without a unit (shape: [...] each); not a number of an empty sample.
    """
    n = np.asarray(total, dtype=np.float64)
    n = np.where(n > 0, n, np.nan)
    p, z2 = np.asarray(count, dtype=np.float64) / n, NormalDist().inv_cdf((1 + share) / 2) ** 2
    middle, reach = p + z2 / (2 * n), np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    # Rounding leaves 1e-17 where the end is 0 or 1.
    low = np.where(p == 0, 0.0, (middle - reach) / (1 + z2 / n))
    high = np.where(p == 1, 1.0, (middle + reach) / (1 + z2 / n))
    return low, high


def with_count_interval(table: pd.DataFrame, count: str, total: str) -> pd.DataFrame:
    """Add the 95 % interval of counts as `low` and `high`: the share of such features, times how many there are here.

    Args:
        table: counts; what has no total has no interval.
        count: its column of how many are counted.
        total: its column of how many there are.
    """
    low, high = wilson_interval(table[count], table[total])
    return table.assign(low=low * table[total], high=high * table[total])
