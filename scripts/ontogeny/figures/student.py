"""Intervals by Student's t over few groups."""

from functools import cache

import numpy as np
import pandas as pd


@cache
def student_quantile(degrees: int, share: float = 0.95) -> float:
    """Find how many standard errors to either side of a mean hold a share of Student's distribution.

    The share within t is a finite sum in theta = arctan(t / sqrt(degrees)) (Abramowitz & Stegun 1964, 26.7.3 and
    26.7.4), which is solved for theta by bisection.

    Args:
        degrees: degrees of freedom; of a mean over groups, their number - 1.
        share: the share that is to be held.

    Returns:
        t, without a unit; not a number below one degree of freedom.
    """
    if degrees < 1:
        return float("nan")
    odd = degrees % 2
    order = 2 * np.arange(1, degrees // 2, dtype=np.float64) + odd
    factors, powers = np.cumprod([1.0, *((order - 1) / order)]), np.array([odd, *order])
    low, high = 0.0, np.pi / 2
    while low < (theta := (low + high) / 2) < high:
        held = np.sin(theta) * (factors * np.cos(theta) ** powers).sum() if degrees > 1 else 0.0
        low, high = (theta, high) if (2 / np.pi * (theta + held) if odd else held) < share else (low, theta)
    return float(np.sqrt(degrees) * np.tan(theta))


def with_interval(
    table: pd.DataFrame, column: str = "value", within: tuple[float, float] = (-np.inf, np.inf)
) -> pd.DataFrame:
    """Name the column `value`, and add its 95 % interval by Student's t as `low` and `high`.

    Args:
        table: with the columns `standard_error` and `groups`, over which that is; what has no groups has no interval.
        column: the mean.
        within: lowest and highest value that there can be, where the interval is cut.
    """
    reach = table["standard_error"] * table["groups"].fillna(0).map(lambda groups: student_quantile(int(groups) - 1))
    low, high = (table[column] - reach).clip(*within), (table[column] + reach).clip(*within)
    return table.assign(value=table[column], low=low, high=high)
