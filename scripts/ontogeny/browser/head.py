"""What the head of every page of a run says of the run."""

import re
from dataclasses import dataclass

from ontogeny.browser.axis import Axis, axis_of, describe
from ontogeny.browser.quantities import Quantity, quantities_of
from ontogeny.database.documents import Run, RunName

K = re.compile(r"(^|-)k\d")
"""Part of the name of a run that says its k."""


@dataclass(frozen=True)
class RunHead:
    """A run, as the pages about it need it."""

    name: RunName
    """Its name."""
    run: Run
    """Its document."""
    axis: Axis
    """Its sites."""
    sites: str
    """What its sites are, in a few words."""
    quantities: dict[str, Quantity]
    """By which its features are ordered and filtered, by column."""

    @property
    def size(self) -> str:
        """Latents and sparsity, in a few words."""
        return f"{self.run.latents:,} latents, {self.sparsity}, seed {self.run.seed}"

    @property
    def sparsity(self) -> str:
        """How sparse it was asked to be: `k = 32` where its name has a k, else the sparsity coefficient."""
        kind = "k =" if K.search(self.run.run) else "sparsity"
        return f"{kind} {self.run.sparsity:g}"


def run_head(run: Run) -> RunHead:
    """Describe a run."""
    axis = axis_of(run.sites)
    name = RunName(run.study, run.dictionary, run.run)
    return RunHead(name, run, axis, describe(run.sites), quantities_of(run, axis))
