"""Whether two runs date features alike, from the table that counts features by their two dates.

Dates are places on a list of T checkpoints. Entry (a, b) of a table counts the features whose date is a in one run and
b in the other; every number below is a function of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
Statistic = Callable[[NDArray[np.integer]], Doubles]

ALL, EMERGENT = "all", "emergent"
"""Features of the reference: all, and those that emerge after the first checkpoint."""
EITHER, BOTH = "emergent in either", "emergent in both"
"""Matched features that emerge after the first checkpoint in either or in both of the runs."""

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""
PERMUTATIONS = 9999
"""Random pairings behind a p."""


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    """2.5 % of the bootstrap samples are below."""
    high: float
    """2.5 % of the bootstrap samples are above."""


def contingency(first_M: Counts, second_M: Counts, steps: int) -> Counts:
    """Count pairs of dates (shape: [T, T]).

    Args:
        first_M: dates in one run, from 0 to T - 1 (shape: [M]).
        second_M: dates of the same features in the other run (shape: [M]).
        steps: T.
    """
    return np.bincount(first_M * steps + second_M, minlength=steps * steps).reshape(steps, steps)


def equal(tables_NTT: NDArray[np.integer]) -> Doubles:
    """Share of features with equal dates; not-a-number without features (shape: [N])."""
    return within(tables_NTT, 0)


def within(tables_NTT: NDArray[np.integer], steps: int = 1) -> Doubles:
    """Share of features whose dates are so many checkpoints apart or fewer (shape: [N])."""
    places = np.arange(tables_NTT.shape[-1])
    near_TT = np.abs(places[:, None] - places) <= steps
    with np.errstate(invalid="ignore"):
        return np.asarray(tables_NTT[..., near_TT].sum(-1) / tables_NTT.sum((-2, -1)))


def equal_by_chance(table_TT: Counts) -> float:
    """Share of features with equal dates that random pairings of the same dates have on average."""
    total = table_TT.sum()
    return float(table_TT.sum(0) @ table_TT.sum(1) / total**2) if total else float("nan")


def spearman(tables_NTT: NDArray[np.integer]) -> Doubles:
    """Rank correlation of the two dates, ties having their mean rank; not-a-number where all are equal (shape: [N])."""
    rows_NT, columns_NT = _ranks(tables_NTT.sum(-1)), _ranks(tables_NTT.sum(-2))
    covariance_N = np.einsum("...ab,...a,...b->...", tables_NTT, rows_NT, columns_NT)
    spread_N = np.einsum("...a,...a->...", tables_NTT.sum(-1), rows_NT**2)
    spread_N = spread_N * np.einsum("...b,...b->...", tables_NTT.sum(-2), columns_NT**2)
    with np.errstate(invalid="ignore"):
        return np.asarray(covariance_N / np.sqrt(spread_N))


def bootstrap(table_TT: Counts, statistic: Statistic, random: np.random.Generator) -> Estimate:
    """Give a statistic its 95 % interval over resampled features.

    Samples in which the statistic is not defined are left out.
    """
    value, total = float(statistic(table_TT)), int(table_TT.sum())
    if not total or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"))
    samples_NE = random.multinomial(total, table_TT.ravel() / total, size=RESAMPLES)
    low, high = np.nanquantile(statistic(samples_NE.reshape(-1, *table_TT.shape)), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def permutation_p(table_TT: Counts, random: np.random.Generator) -> float:
    """Probability of a rank correlation as high as this one when features are paired at random.

    One-sided, the observed pairing counted among the random ones; not-a-number where the correlation is.
    """
    observed = float(spearman(table_TT))
    if np.isnan(observed):
        return float("nan")
    steps = len(table_TT)
    first_M, second_M = (np.repeat(index, table_TT.ravel()) for index in np.indices(table_TT.shape).reshape(2, -1))
    tables_NTT = np.stack([contingency(first_M, random.permutation(second_M), steps) for _ in range(PERMUTATIONS)])
    # Rounding must not make a tie with the observed pairing a lower one.
    as_high = int((spearman(tables_NTT) >= observed - 1e-12).sum())
    return (as_high + 1) / (PERMUTATIONS + 1)


def _ranks(counts_NT: NDArray[np.integer]) -> Doubles:
    """Mean rank of each date, less the mean of all ranks (shape: [N, T])."""
    below_NT = np.cumsum(counts_NT, axis=-1) - counts_NT
    return np.asarray(below_NT + counts_NT / 2 - counts_NT.sum(-1, keepdims=True) / 2)
