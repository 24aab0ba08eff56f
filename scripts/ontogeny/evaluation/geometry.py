"""How decoders lie to each other: rotation over sites, and the dimensions that features share out among them.

Sums are taken in float64, a block of features at a time, so that memory does not grow with their number.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.evaluation.emergence import CLASSES, feature_classes

Doubles = NDArray[np.float64]


class RotationSums:
    """Cosines of the decoders of a feature at two sites, for every pair of sites, added block by block.

    What is summed is 1 - cosine, which keeps its digits where decoders hardly turn.
    """

    def __init__(self, groups: int, sites: int) -> None:
        self.features = torch.zeros(groups, sites, sites, dtype=torch.float64)
        """Features with a decoder at both sites (shape: [G, S, S])."""
        self.sum = torch.zeros_like(self.features)
        self.squares = torch.zeros_like(self.features)

    def add(self, W_BSD: Tensor, members_GB: Tensor) -> None:
        """Add features.

        Args:
            W_BSD: their decoders (shape: [B, S, D]).
            members_GB: which of them belong to each group (shape: [G, B], boolean).
        """
        W_BSD, members = W_BSD.double(), members_GB.double()
        norms_BS = W_BSD.norm(dim=2)
        unit_BSD = W_BSD / norms_BS.clamp_min(torch.finfo(torch.float64).tiny)[:, :, None]
        both_BSS = ((norms_BS[:, :, None] > 0) & (norms_BS[:, None, :] > 0)).double()
        turned_BSS = (1 - unit_BSD @ unit_BSD.mT) * both_BSS
        self.features += torch.einsum("gb,bst->gst", members, both_BSS)
        self.sum += torch.einsum("gb,bst->gst", members, turned_BSS)
        self.squares += torch.einsum("gb,bst->gst", members, turned_BSS.square())

    def cosine(self) -> Tensor:
        """Mean cosine over features; not-a-number for pairs of sites where none has a decoder (shape: [G, S, S])."""
        return 1 - self.sum / self.features

    def standard_error(self) -> Tensor:
        """Standard error of the mean over features; not-a-number where there are fewer than two (shape: [G, S, S])."""
        spread = (self.squares - self.sum.square() / self.features).clamp_min(0)
        error = (spread / (self.features - 1) / self.features).sqrt()
        return torch.where(self.features > 1, error, torch.nan)


def total_dimensionality(blocks: Callable[[], Iterable[Tensor]], d_model: int) -> float:
    """Sum the dimensionality of features over features (Elhage et al. 2022, *Toy Models of Superposition*).

    D_i = ||W_i||^2 / sum_j (unit(W_i) . W_j)^2, the share of a dimension that feature i has for itself. The sum over j
    is unit(W_i)^T (W^T W) unit(W_i), so one matrix of d_model squared stands for all pairs of features. The total is at
    most the rank of W, hence at most d_model. Features whose vector is 0 have no dimension.

    Args:
        blocks: called twice, goes over the same blocks of features W (shape: [B, D] each).
        d_model: D.
    """
    gram_DD = torch.zeros(d_model, d_model, dtype=torch.float64)
    for W_BD in blocks():
        gram_DD.addmm_(W_BD.double().T, W_BD.double())
    total = 0.0
    for W_BD in blocks():
        own_B = W_BD.double().square().sum(1)
        shared_B = ((W_BD.double() @ gram_DD) * W_BD).sum(1)
        total += float((own_B.square() / shared_B)[own_B > 0].sum())
    return total


def class_counts(normalised_LS: Doubles, threshold: float) -> dict[str, int]:
    """Count the features of each of `CLASSES`.

    Args:
        normalised_LS: norms over their maximum, of features that have a decoder (shape: [L, S]).
        threshold: tau.
    """
    found_L = feature_classes(normalised_LS, threshold)
    return {name: int((found_L == name).sum()) for name in CLASSES}


def persistence_counts(normalised_LS: Doubles, threshold: float) -> NDArray[np.int64]:
    """Count the features that are above tau at n sites, for n = 0 to S (shape: [S + 1])."""
    return np.bincount((normalised_LS > threshold).sum(axis=1), minlength=normalised_LS.shape[1] + 1)
