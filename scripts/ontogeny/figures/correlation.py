"""Correlations of two numbers of each feature, with what chance would do."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ontogeny.randomness import generator

INTERVAL = (2.5, 97.5)
"""Percentiles of the draws."""


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
    value = float(coefficients(x_N[None], y_N[None], ranked)[0])
    if np.isnan(value):
        return Correlation(value, value, value, value)
    chosen_RN = generator(seed, "bootstrap").integers(len(x_N), size=(resamples, len(x_N)))
    low, high = np.nanpercentile(coefficients(x_N[chosen_RN], y_N[chosen_RN], ranked), INTERVAL)
    random = generator(seed, "permutations")
    shuffled_RN = random.permuted(np.tile(np.arange(len(x_N)), (permutations, 1)), axis=1)
    far = int((np.abs(coefficients(x_N[None], y_N[shuffled_RN], ranked)) >= abs(value) - 1e-12).sum())
    return Correlation(value, float(low), float(high), (1 + far) / (1 + permutations) if permutations else np.nan)


def coefficients(x_RN: NDArray[np.float64], y_RN: NDArray[np.float64], ranked: bool = True) -> NDArray[np.float64]:
    """Compute the correlation of each row (shape: [R]), of ranks if wanted; equal numbers share their mean rank."""
    if ranked:
        x_RN, y_RN = (pd.DataFrame(values).rank(axis=1).to_numpy() for values in (x_RN, y_RN))
    x_RN, y_RN = (values - values.mean(axis=1, keepdims=True) for values in (x_RN, y_RN))
    size_R = np.sqrt((x_RN**2).sum(axis=1) * (y_RN**2).sum(axis=1))
    result_R = np.full(len(size_R), np.nan)
    np.divide((x_RN * y_RN).sum(axis=1), size_R, out=result_R, where=size_R > 1e-9)
    return result_R
