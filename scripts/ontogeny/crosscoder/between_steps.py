"""What runs do between two steps, on samples of rows: dead latents start again, and densities are counted."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch

from ontogeny.activations.reader import Reader
from ontogeny.crosscoder.resampling import resample, resampling_due
from ontogeny.crosscoder.step import Stepper
from ontogeny.densities import SAMPLE, density_due, density_rows
from ontogeny.randomness import generator

log = logging.getLogger("ontogeny")


def between_steps(steppers: Sequence[Stepper], reader: Reader) -> list[list[dict[str, str]]]:
    """Do what the recipe has for the moment after the last step that was taken.

    Args:
        steppers: runs of one recipe, seed and step; a sample is read once for all of them.
        reader: the rows that they train on.

    Returns:
        Rows of `density.csv` of each run; none where this is not the moment for any.
    """
    first = steppers[0]
    rows = _resample(steppers, reader)
    if density_due(first.steps_done, first.steps, first.settings.density_histograms):
        rows = _joined(rows, _densities(steppers, reader, "training"))
    return rows


def _resample(steppers: Sequence[Stepper], reader: Reader) -> list[list[dict[str, str]]]:
    """Let dead latents start again where the recipe has this step for it, unless no step is left to train them.

    Returns:
        Densities of each run before and after; nothing where it is not this step.
    """
    first = steppers[0]
    dead = first.settings.dead
    number = resampling_due(first.steps_done, dead.interval, dead.times) if dead.policy == "resample" else None
    if number is None or first.steps_done == first.steps:
        return [[] for _ in steppers]
    before = _densities(steppers, reader, "before")
    raw_batches = (batch.raw_BSD for batch in reader.sample(dead.candidates, number))
    started = resample(steppers, raw_batches, generator(first.settings.seed, "resample", number))
    log.info("step %d: %s latents started again", first.steps_done, ", ".join(map(str, started)))
    return _joined(before, _densities(steppers, reader, "after"))


def _densities(
    steppers: Sequence[Stepper], reader: Reader, moment: Literal["training", "before", "after"]
) -> list[list[dict[str, str]]]:
    """Count how often latents of each run fire, on the same rows each time."""
    firings, rows = [torch.zeros_like(stepper.silent_L) for stepper in steppers], 0
    for batch in reader.sample(steppers[0].settings.density_rows, SAMPLE):
        for firings_L, stepper in zip(firings, steppers, strict=True):
            firings_L += stepper.firings(batch.raw_BSD)
        rows += len(batch.raw_BSD)
    return [density_rows(firings_L.cpu().numpy(), rows, steppers[0].steps_done, moment) for firings_L in firings]


def _joined(one: list[list[dict[str, str]]], other: list[list[dict[str, str]]]) -> list[list[dict[str, str]]]:
    """Put the rows of each run behind each other."""
    return [before + after for before, after in zip(one, other, strict=True)]
