"""How well an explanation tells true windows from others."""

from collections.abc import Sequence
from typing import NamedTuple


class Score(NamedTuple):
    """What was decided of windows, counted."""

    positives: int
    """True windows."""
    hits: int
    """Those of them of which it was said."""
    negatives: int
    """Other windows."""
    rejections: int
    """Those of them of which it was denied."""

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the shares of true and of other windows that were told rightly; None where there is none of a kind.

        It is 1 where every window is told rightly, and 0.5 for answers that do not look at windows.
        """
        if not self.positives or not self.negatives:
            return None
        return (self.hits / self.positives + self.rejections / self.negatives) / 2


def score(truth: Sequence[bool], said: Sequence[bool]) -> Score:
    """Count what was decided of windows against the truth."""
    pairs = list(zip(truth, said, strict=True))
    return Score(sum(truth), pairs.count((True, True)), len(truth) - sum(truth), pairs.count((False, False)))
