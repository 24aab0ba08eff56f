"""Correlations of two numbers of each feature, with what chance would do."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.randomness import generator

INTERVAL = (2.5, 97.5)
"""Percentiles of the draws."""
TOGETHER = 100
"""Draws that are computed at once, for the sake of memory."""


class Correlation(NamedTuple):
    """A correlation over features; not-a-number where one of both numbers is constant."""

    value: float
    """The coefficient."""
    low: float
    """Lower end of its interval by the bootstrap, percentiles 2.5 to 97.5."""
    high: float
    """Upper end."""
    p: float
    """Share of shuffles (the data among them) with a coefficient as far from 0, both sides."""


def correlation(
    x_N: NDArray[np.float64],
    y_N: NDArray[np.float64],
    resamples: int,
    permutations: int,
    seed: int,
    ranked: bool = True,
) -> Correlation:
    """Compute Spearman's correlation, or Pearson's.

    Args:
        x_N: one number of each feature.
        y_N: the other.
        resamples: draws of features with replacement, for the interval; draws in which a number is constant are left
            out.
        permutations: shuffles of one against the other, for p, which is not-a-number where there are none.
        seed: of both.
        ranked: whether numbers are replaced by their ranks (Spearman), those of each draw anew.
    """
    value = coefficient(x_N, y_N, ranked)
    if np.isnan(value):
        return Correlation(value, value, value, value)
    low, high = interval(x_N, y_N, np.arange(len(x_N)), resamples, seed, ranked)
    x_N, y_N = (_deviations(values_N, np.ones((1, len(x_N))), ranked)[0] for values_N in (x_N, y_N))
    random = generator(seed, "permutations")
    shuffled_RN = random.permuted(np.tile(np.arange(len(x_N)), (permutations, 1)), axis=1)
    reached_R = np.abs(y_N[shuffled_RN] @ x_N) / np.sqrt((x_N @ x_N) * (y_N @ y_N))
    far = int((reached_R >= abs(value) - 1e-12).sum())
    return Correlation(value, low, high, (1 + far) / (1 + permutations) if permutations else np.nan)


def interval(
    x_N: NDArray[np.float64],
    y_N: NDArray[np.float64],
    unit_N: NDArray[np.int64],
    resamples: int,
    seed: int,
    ranked: bool = True,
) -> tuple[float, float]:
    """Compute a correlation's interval by the bootstrap.

    Args:
        x_N: numbers.
        y_N: the others.
        unit_N: from 0, what each pair of numbers belongs to; a draw takes units with replacement, each with all of
            its pairs.
        resamples: draws; those in which a number is constant are left out.
        seed: of the draws.
        ranked: whether numbers are replaced by their ranks in each draw.
    """
    random = generator(seed, "bootstrap")
    units = int(unit_N.max()) + 1
    drawn = []
    for first in range(0, resamples, TOGETHER):
        chosen_RU = random.integers(units, size=(min(TOGETHER, resamples - first), units))
        weight_RU = np.stack([np.bincount(chosen_U, minlength=units) for chosen_U in chosen_RU]).astype(np.float64)
        drawn.append(_coefficients(x_N, y_N, weight_RU[:, unit_N], ranked))
    low, high = np.nanpercentile(np.concatenate(drawn), INTERVAL)
    return float(low), float(high)


def coefficient(x_N: NDArray[np.float64], y_N: NDArray[np.float64], ranked: bool = True) -> float:
    """Compute the correlation, of ranks if wanted; equal numbers share their mean rank."""
    return float(_coefficients(x_N, y_N, np.ones((1, len(x_N))), ranked)[0])


def _coefficients(
    x_N: NDArray[np.float64], y_N: NDArray[np.float64], weight_RN: NDArray[np.float64], ranked: bool
) -> NDArray[np.float64]:
    """Compute the correlation (shape: [R]) where each pair of numbers is there as often as its weight."""
    x_RN, y_RN = (_deviations(values_N, weight_RN, ranked) for values_N in (x_N, y_N))
    size_R = np.sqrt((weight_RN * x_RN**2).sum(axis=1) * (weight_RN * y_RN**2).sum(axis=1))
    result_R = np.full(len(size_R), np.nan)
    np.divide((weight_RN * x_RN * y_RN).sum(axis=1), size_R, out=result_R, where=size_R > 1e-9)
    return result_R


def _deviations(values_N: NDArray[np.float64], weight_RN: NDArray[np.float64], ranked: bool) -> NDArray[np.float64]:
    """Compute numbers, or their ranks, less their mean, where each is there as often as its weight."""
    values_RN = np.broadcast_to(values_N, weight_RN.shape)
    if ranked:
        order_N = np.argsort(values_N, kind="stable")
        differs_N = np.diff(values_N[order_N], prepend=np.nan) != 0
        equal_RK = np.add.reduceat(weight_RN[:, order_N], np.flatnonzero(differs_N), axis=1)
        rank_RK = np.cumsum(equal_RK, axis=1) - (equal_RK - 1) / 2
        group_N = np.empty(len(values_N), dtype=np.int64)
        group_N[order_N] = np.cumsum(differs_N) - 1
        values_RN = rank_RK[:, group_N]
    mean_RN = (weight_RN * values_RN).sum(axis=1, keepdims=True) / weight_RN.sum(axis=1, keepdims=True)
    deviations_RN: NDArray[np.float64] = values_RN - mean_RN
    return deviations_RN
