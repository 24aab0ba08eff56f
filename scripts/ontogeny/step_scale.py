"""The log axis of training steps, with step 0 in a slot of its own."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

GAP = 0.15
"""Distance of the slot of step 0 from the first other step, as a share of the length of the rest."""


class StepScale(NamedTuple):
    """Positions of training steps: log10(step), and step 0 in a slot before the first of the others."""

    first: int
    """Smallest step above 0."""
    last: int
    """Largest step."""
    zero: bool
    """Whether step 0 is among them."""

    @property
    def length(self) -> float:
        """Decades from the first step above 0 to the last, at least a third of one."""
        return max(float(np.log10(self.last / self.first)), 1 / 3)

    @property
    def slot(self) -> float:
        """Position of step 0."""
        return float(np.log10(self.first)) - GAP * self.length

    def positions(self, steps: ArrayLike) -> NDArray[np.float64]:
        """Place steps on the axis."""
        values = np.asarray(steps, dtype=np.float64)
        return np.where(values > 0, np.log10(np.maximum(values, 1)), self.slot)

    def ticks(self, room: int) -> tuple[list[int], list[int]]:
        """Choose decades, and between them their multiples; 1-2-5 where there are fewer than two decades.

        Where there is no room for so many names, every second or third is kept.
        """
        powers = [10**n for n in range(int(np.log10(self.last)) + 1)]
        inside = {
            factors: [f * power for power in powers for f in factors if self.first <= f * power <= self.last]
            for factors in ((1,), (1, 2, 5), tuple(range(1, 10)))
        }
        decades, some, all_multiples = inside.values()
        major = next((ticks for ticks in (decades, some) if len(ticks) > 1), sorted({self.first, self.last}))
        major = major[:: -(-len(major) // max(room, 1))]
        return major, [step for step in all_multiples if step not in major]


def step_scale(steps: Iterable[int]) -> StepScale:
    """Make the scale that holds all of `steps`."""
    values = {int(step) for step in steps}
    above = values - {0} or {1}
    return StepScale(min(above), max(above), 0 in values)
