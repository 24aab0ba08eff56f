"""What a step that goes over active entries has to know of them."""

from typing import NamedTuple

import torch

from ontogeny.crosscoder.active import Active
from ontogeny.crosscoder.nonlinearity import Gate
from ontogeny.crosscoder.parallel import Ranks


class Rule(NamedTuple):
    """Which entries fire where, and what is measured of them."""

    active: Active
    """The entries that fire at some site."""
    by_site: bool
    """Gate `site`."""
    gate: Gate | None
    """Thresholds of `jumprelu`; None where all that is active fires."""
    penalised: bool
    """Whether anything becomes of the activity."""
    tanh_scale: float | None
    """c in tanh(c f n); None leaves tanh out."""
    precision: torch.dtype
    """Type of the factors in the one dense product, that of thresholds."""
    sites: int
    """Sites of all processes together."""
    ranks: Ranks
    """The processes, each of which has some of the sites."""

    @property
    def parts(self) -> int:
        """How many parts are gated, in all processes together: every site alone, or all as one."""
        return self.sites if self.by_site else 1
