"""The runs of a sweep one after the other on each batch: any recipe, with the arithmetic of a run trained alone.

What they share is the rows, which are read once for all of them, and where activations are streamed, the pass of the
language model behind them. `ontogeny.crosscoder.sweep` shares the products as well, for the one recipe that it knows.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ontogeny.activations.statistics import SiteStatistics
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.step import Stepper


class OneByOne:
    """Several runs that read the same rows in the same order, R of them.

    Attributes:
        runs: the runs; they differ in latents, k, coefficient and name alone.
        steppers: each of them.
        crosscoders: what is trained.
    """

    def __init__(
        self,
        runs: Sequence[RunSettings],
        steps: int,
        d_model: int,
        statistics: Sequence[SiteStatistics],
    ) -> None:
        """Set up the runs with weights of 0.

        Args:
            runs: the runs.
            steps: steps of the whole run, for the schedules.
            d_model: D.
            statistics: statistics of all sites, in order.
        """
        self.runs = tuple(runs)
        self.steppers = tuple(Stepper(run, steps, d_model, statistics) for run in runs)
        self.crosscoders = tuple(stepper.crosscoder for stepper in self.steppers)

    def initialise(self, raw_BSD: Tensor) -> None:
        """Give each run the first weights that it has when it is trained alone; `raw_BSD` is the first batch."""
        for stepper in self.steppers:
            stepper.initialise(raw_BSD)

    @property
    def steps_done(self) -> int:
        """Optimiser steps so far."""
        return self.steppers[0].steps_done

    def step(self, raw_BSD: Tensor, logged: bool) -> list[dict[str, float]]:
        """Take one optimiser step of every run.

        Args:
            raw_BSD: raw activations (shape: [B, S, D]).
            logged: whether to measure the batch, for which the step waits for the device.

        Returns:
            Columns of `training.csv` for each run, before the parameters change; nothing if not `logged`.
        """
        raw_BSD = raw_BSD.to(self.crosscoders[0].scales.device, non_blocking=True)
        measured = [stepper.step(raw_BSD, logged) for stepper in self.steppers]
        return [columns for columns in measured if columns is not None]

    @property
    def first_faulty(self) -> Tensor:
        """The first step at which the loss or the gradient of a run was not finite, -1 if none was (scalar)."""
        faulty_R = self._faulty_steps()
        return faulty_R[faulty_R >= 0].min() if (faulty_R >= 0).any() else faulty_R.max()

    @property
    def faulty_R(self) -> Tensor:
        """The runs that were not finite then (shape: [R])."""
        return (self._faulty_steps() >= 0) & (self._faulty_steps() == self.first_faulty)

    def state(self) -> dict[str, Tensor]:
        """Collect every tensor that later steps depend on."""
        own = zip(self.runs, self.steppers, strict=True)
        return {f"{run.run}.{name}": value for run, stepper in own for name, value in stepper.state().items()}

    def load_state(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned after `steps_done` steps."""
        for run, stepper in zip(self.runs, self.steppers, strict=True):
            prefix = f"{run.run}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            stepper.load_state(steps_done, own)

    def _faulty_steps(self) -> Tensor:
        return torch.stack([stepper.first_faulty for stepper in self.steppers])
