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
    x_N: NDArray[np.float64], y_N: NDArray[np.float64], resamples: int, permutations: int, seed: int
) -> Correlation:
    """Compute Pearson's correlation; of ranks it is Spearman's.

    Args:
        x_N: one number of each feature.
        y_N: the other.
        resamples: draws of features with replacement, for the interval; draws in which a number is constant are left
            out.
        permutations: shuffles of one against the other, for p; none where it is 0, and p is not-a-number.
        seed: of both.
    """
    value = float(_coefficients(x_N[None], y_N[None])[0])
    if np.isnan(value):
        return Correlation(value, value, value, value)
    chosen_RN = generator(seed, "bootstrap").integers(len(x_N), size=(resamples, len(x_N)))
    drawn_R = _coefficients(x_N[chosen_RN], y_N[chosen_RN])
    low, high = np.nanpercentile(drawn_R, INTERVAL)
    random = generator(seed, "permutations")
    far = sum(
        abs(float(_coefficients(x_N[None], random.permutation(y_N)[None])[0])) >= abs(value) - 1e-12
        for _ in range(permutations)
    )
    return Correlation(value, float(low), float(high), (1 + far) / (1 + permutations) if permutations else np.nan)


def ranks(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank numbers; equal ones share the mean of their ranks."""
    return pd.Series(values_N).rank().to_numpy()


def _coefficients(x_RN: NDArray[np.float64], y_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Pearson's correlation of each row."""
    x_RN, y_RN = (values - values.mean(axis=1, keepdims=True) for values in (x_RN, y_RN))
    size_R = np.sqrt((x_RN**2).sum(axis=1) * (y_RN**2).sum(axis=1))
    result_R = np.full(len(x_RN), np.nan)
    np.divide((x_RN * y_RN).sum(axis=1), size_R, out=result_R, where=size_R > 1e-9)
    return result_R
