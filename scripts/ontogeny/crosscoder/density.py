"""How often latents fire while a dictionary trains: histograms of their density over training (Bricken et al. 2023)."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from torch import Tensor

from ontogeny.crosscoder.step import Stepper

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
    stepper: Stepper, raw_batches: Iterable[Tensor], moment: Literal["training", "before", "after"]
) -> list[dict[str, str]]:
    """Count the latents of each density on some rows, as rows of `density.csv`.

    Args:
        stepper: the run; nothing of it changes.
        raw_batches: the rows (shape: [B, S, D] each), the same ones on every process that trains the run.
        moment: what the histogram is of.
    """
    firings_L, rows = np.zeros(stepper.settings.latents, np.int64), 0
    for raw_BSD in raw_batches:
        firings_L += stepper.firings(raw_BSD).cpu().numpy()
        rows += len(raw_BSD)
    bins = [("", "", int((firings_L == 0).sum()))]
    counts, edges = histogram(firings_L / rows)
    bins += [(f"{edges[n]:g}", f"{edges[n + 1]:g}", int(count)) for n, count in enumerate(counts)]
    values = ((stepper.steps_done, moment, *found, rows) for found in bins)
    return [dict(zip(COLUMNS, map(str, row), strict=True)) for row in values]


def histogram(density_L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count densities above 0 in the bins between `EDGES`; those beyond an end are in the last bin there."""
    exponents = np.log10(density_L[density_L > 0]).clip(EDGES[0], EDGES[-1])
    counts, edges = np.histogram(exponents, EDGES)
    return counts, edges
