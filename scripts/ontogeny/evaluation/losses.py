"""Losses of a language model with an activation replaced, and what share of an ablation's cost is recovered."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ontogeny.evaluation.tables import Measurement
from ontogeny.sites import Site

VARIANTS = ("clean", "reconstructed", "mean_ablated", "zero_ablated")
"""What stands at the hook: the model's own activation, or one of its three replacements."""


class LossSums:
    """Sums of losses in float64, for each site and variant."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = tuple(sites)
        self.tokens = 0
        self._nats = {(site, variant): 0.0 for site in self.sites for variant in VARIANTS}

    def add(self, site: Site, variant: str, losses_N: Tensor) -> None:
        """Add next-token losses in nats, (N,); the same N tokens belong into every variant."""
        self._nats[site, variant] += float(losses_N.sum(dtype=torch.float64))

    def measurements(self, site: Site) -> list[Measurement]:
        """Mean losses of a site in nats a token, and the share recovered of what each ablation costs."""
        nll = {variant: self._nats[site, variant] / self.tokens for variant in VARIANTS}
        values = {f"nll_{variant}": value for variant, value in nll.items()}
        for ablation in ("mean", "zero"):
            values[f"recovered_{ablation}"] = recovered(nll["clean"], nll["reconstructed"], nll[f"{ablation}_ablated"])
        return [Measurement(site, metric, value, self.tokens) for metric, value in values.items()]


def recovered(clean: float, reconstructed: float, ablated: float) -> float:
    """Share recovered of the loss that an ablation costs: (ablated - reconstructed) / (ablated - clean).

    1 where the reconstruction is as good as the activation, 0 where it is as bad as the ablation, below 0 where it is
    worse; not a number where the ablation changes nothing. All losses in nats.
    """
    return (ablated - reconstructed) / (ablated - clean) if ablated != clean else float("nan")
