"""What the thresholds of `jumprelu` learn from: every entry near its threshold, whether it fires or not.

Those are most entries of (B, L), for each part that is gated alone. So this gradient keeps the dense product that the
rest of the step does without. But of a latent it needs no more than sum_b near_b (g_b . W), with g the gradient of the
reconstruction and near_b 0 or 1. That is (sum_b near_b g_b) . W, so nothing of size (B, L) comes out of the product.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ontogeny.crosscoder.active import summed_by_latent
from ontogeny.crosscoder.nonlinearity import Gate, through_rectangle
from ontogeny.crosscoder.products import product_of_rounded, rounded
from ontogeny.crosscoder.rule import Rule

LATENTS_AT_ONCE = 512
"""Latents whose entries a CPU compares with thresholds and multiplies while they are in its cache."""


class PenaltyGradient(NamedTuple):
    """The penalty's gradient for z = f n."""

    active_NG: Tensor
    """At active entries."""
    at_zero_L: Tensor
    """Where a latent does not fire."""


def log_threshold_gradient(
    gradient_BGV: Tensor,
    W_dec_LGV: Tensor,
    h_BL: Tensor,
    norms_LG: Tensor,
    z_NG: Tensor,
    penalty: PenaltyGradient | None,
    rule: Rule,
) -> Tensor:
    """Carry the gradients of reconstruction and penalty back to log thresholds.

    Args:
        gradient_BGV: gradient of the reconstruction, part by part.
        W_dec_LGV: decoder.
        h_BL: pre-activations.
        norms_LG: decoder norms.
        z_NG: f n of active entries.
        penalty: gradient of the penalty; None where there is none.
        rule: which entries fire where.

    Returns:
        (shape: [L]), that of `nonlinearity.threshold_gradient` summed over the parts of all processes.
    """
    assert rule.gate is not None
    near_LG, count_LG = near_sums(gradient_BGV, W_dec_LGV, h_BL, norms_LG, rule.gate, rule.precision)
    if not rule.by_site:
        rule.ranks.sum_over_sites(near_LG)
    if penalty is not None:
        slopes_LG = count_LG * penalty.at_zero_L[:, None] + _beyond_zero(z_NG, penalty, rule)
        near_LG.addcmul_(slopes_LG, norms_LG)
    threshold_L1 = rule.gate.threshold_L[:, None]
    d_log_threshold_L = through_rectangle(near_LG, norms_LG, threshold_L1, rule.gate.bandwidth).sum(1)
    return rule.ranks.sum_over_sites(d_log_threshold_L) if rule.by_site else d_log_threshold_L


def near_sums(
    gradient_BGV: Tensor, W_dec_LGV: Tensor, h_BL: Tensor, norms_LG: Tensor, gate: Gate, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Sum the gradient of the code over the rows where |h n - t| < w / 2, and count these rows.

    Args:
        gradient_BGV: gradient of the reconstruction, part by part.
        W_dec_LGV: decoder.
        h_BL: pre-activations.
        norms_LG: decoder norms.
        gate: thresholds t and bandwidth w.
        precision: type of the factors in the product.

    Returns:
        Sums and counts (shape: [L, G] each). With `near_BL = (h_BL * norms_LG[:, g] - t).abs() < w / 2`, the sums of
        part g are equal to `(near_BL * (gradient_BGV[:, g] @ W_dec_LGV[:, g].T)).sum(0)`.
    """
    low_gradient_BGV, h_LB = rounded(gradient_BGV, precision), h_BL.T.contiguous()
    near_LG, count_LG = torch.empty_like(norms_LG), torch.empty_like(norms_LG)
    at_once = len(h_LB) if h_BL.is_cuda else LATENTS_AT_ONCE
    for first in range(0, len(h_LB), at_once):
        latents = slice(first, first + at_once)
        threshold_T1 = gate.threshold_L[latents, None]
        for part in range(norms_LG.shape[1]):
            beyond_TB = (h_LB[latents] * norms_LG[latents, part, None]).sub_(threshold_T1)
            near_TB = beyond_TB.abs_().lt_(gate.bandwidth / 2)
            count_LG[latents, part] = near_TB.sum(1)
            summed_TV = product_of_rounded(rounded(near_TB, precision), low_gradient_BGV[:, part]).to(h_BL.dtype)
            near_LG[latents, part] = torch.linalg.vecdot(summed_TV, W_dec_LGV[latents, part])
    return near_LG, count_LG


def _beyond_zero(z_NG: Tensor, penalty: PenaltyGradient, rule: Rule) -> Tensor:
    """Sum by how much the penalty's gradient where an entry fires differs from the one at 0 (shape: [L, G])."""
    assert rule.gate is not None
    latent_N = rule.active.latent_N
    upper_N = rule.gate.threshold_L.index_select(0, latent_N).add_(rule.gate.bandwidth / 2)
    near_NG = (z_NG < upper_N[:, None]).logical_and_(z_NG > 0)
    added_NG = penalty.active_NG - penalty.at_zero_L.index_select(0, latent_N)[:, None]
    return summed_by_latent(added_NG.mul_(near_NG), rule.active)
