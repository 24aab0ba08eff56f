"""How often latents fire while a dictionary trains: histograms of their density (Bricken et al. 2023)."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

EDGES = np.linspace(-7, 0, 29)
"""Edges of the bins in log10 of the density, four a decade; a density on an edge belongs to the bin above it."""

MOMENT = "moment"
"""Column that rows of densities have, and rows of the training log have not."""

COLUMNS = ("step", MOMENT, "low", "high", "latents", "rows")
"""Columns of `density.csv`: optimiser steps done, when (`training`, or `before` and `after` a resampling), edges of the
bin in log10 of the density, latents in it, and rows that were read. Silent latents are in a bin without edges."""

SAMPLE = 2**20
"""Number of the sample of rows that all histograms of a run read; resamplings draw the first ones."""


def density_due(steps_done: int, steps: int, histograms: int) -> bool:
    """Tell whether one of so many histograms, which are spaced evenly over a run and end with it, follows a step."""
    return steps_done * histograms // steps > (steps_done - 1) * histograms // steps


def density_rows(
    firings_L: NDArray[np.int64], rows: int, steps_done: int, moment: Literal["training", "before", "after"]
) -> list[dict[str, str]]:
    """Count the latents of each density, as rows of `density.csv`.

    Args:
        firings_L: rows on which each latent fires (shape: [L]).
        rows: rows that were read.
        steps_done: optimiser steps done.
        moment: what the histogram is of.
    """
    exponents = np.log10(firings_L[firings_L > 0] / rows).clip(EDGES[0], EDGES[-1])
    bins = [("", "", len(firings_L) - len(exponents))]
    bins += [
        (f"{EDGES[n]:g}", f"{EDGES[n + 1]:g}", int(count)) for n, count in enumerate(np.histogram(exponents, EDGES)[0])
    ]
    values = ((steps_done, moment, *found, rows) for found in bins)
    return [dict(zip(COLUMNS, map(str, row), strict=True)) for row in values]
