"""What a run does between two steps, on samples of rows: dead latents start again, and densities are counted."""

import logging
from typing import Literal

import torch

from ontogeny.activations.reader import Reader
from ontogeny.crosscoder.resampling import resample, resampling_due
from ontogeny.crosscoder.step import Stepper
from ontogeny.densities import SAMPLE, density_due, density_rows
from ontogeny.randomness import generator

log = logging.getLogger("ontogeny")


def between_steps(stepper: Stepper, reader: Reader) -> list[dict[str, str]]:
    """Do what the recipe has for the moment after the last step that was taken.

    Returns:
        Rows of `density.csv`; none where this is not the moment for any.
    """
    rows = _resample(stepper, reader)
    if density_due(stepper.steps_done, stepper.steps, stepper.settings.density_histograms):
        rows += _densities(stepper, reader, "training")
    return rows


def _resample(stepper: Stepper, reader: Reader) -> list[dict[str, str]]:
    """Let dead latents start again where the recipe has this step for it, unless no step is left to train them.

    Returns:
        Densities before and after; nothing where it is not this step.
    """
    dead = stepper.settings.dead
    number = resampling_due(stepper.steps_done, dead.interval, dead.times) if dead.policy == "resample" else None
    if number is None or stepper.steps_done == stepper.steps:
        return []
    before = _densities(stepper, reader, "before")
    raw_batches = (batch.raw_BSD for batch in reader.sample(dead.candidates, number))
    started = resample(stepper, raw_batches, generator(stepper.settings.seed, "resample", number))
    log.info("step %d: %d latents started again", stepper.steps_done, started)
    return before + _densities(stepper, reader, "after")


def _densities(
    stepper: Stepper, reader: Reader, moment: Literal["training", "before", "after"]
) -> list[dict[str, str]]:
    """Count how often latents fire, on the same rows each time."""
    firings_L, rows = torch.zeros_like(stepper.silent_L), 0
    for batch in reader.sample(stepper.settings.density_rows, SAMPLE):
        firings_L += stepper.firings(batch.raw_BSD)
        rows += len(batch.raw_BSD)
    return density_rows(firings_L.cpu().numpy(), rows, stepper.steps_done, moment)
