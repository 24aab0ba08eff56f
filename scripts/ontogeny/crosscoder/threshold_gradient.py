"""What the thresholds of `jumprelu` learn from: every entry near its threshold, whether it fires or not.

Those are most entries of (B, L), for each part that is gated alone. So this gradient keeps the dense product that the
rest of the step does without, and goes over it a few rows at a time, while they are in the cache.
"""

from itertools import pairwise

import torch
from torch import Tensor

from ontogeny.crosscoder.active import Active, summed_by_latent
from ontogeny.crosscoder.loss import activity_slope
from ontogeny.crosscoder.nonlinearity import Gate, through_rectangle
from ontogeny.crosscoder.products import product_of_rounded, rounded
from ontogeny.crosscoder.rule import Rule

ROWS_AT_ONCE = 128
"""Rows of the dense product that a CPU goes over while they are in its cache."""


def through_gate(
    gradient_BGV: Tensor, W_dec_LGV: Tensor, h_BL: Tensor, norms_LG: Tensor, share_L: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Carry the gradient of the reconstruction back to the code, and with the penalty's on to log thresholds.

    Args:
        gradient_BGV: gradient of the reconstruction, part by part.
        W_dec_LGV: decoder.
        h_BL: pre-activations.
        norms_LG: decoder norms.
        share_L: gradient of the mean activity of each latent, over what it is averaged over.
        rule: which entries fire where.

    Returns:
        Gradient of active entries without the penalty's (shape: [N, G]), and of log t (shape: [L]), which is that of
        `nonlinearity.threshold_gradient` summed over the parts of all processes.
    """
    assert rule.gate is not None
    low_gradient_BGV, low_W_dec_LGV = rounded(gradient_BGV, rule.precision), rounded(W_dec_LGV, rule.precision)
    at_zero_L = share_L * (rule.tanh_scale or 1.0)
    blocks = _blocks(h_BL, rule.active)
    d_f_NG = h_BL.new_empty(len(rule.active.latent_N), norms_LG.shape[1])
    d_log_threshold_L = torch.zeros_like(share_L)
    for part, norms_L in enumerate(norms_LG.T.contiguous()):
        near_L = torch.zeros_like(share_L)
        for rows, entries, flat_N in blocks:
            d_f_BL = product_of_rounded(low_gradient_BGV[rows, part], low_W_dec_LGV[:, part].T).to(h_BL.dtype)
            if not rule.by_site:
                rule.ranks.sum_over_sites(d_f_BL)
            d_f_NG[entries, part] = d_f_BL.view(-1).index_select(0, flat_N)
            if rule.penalised:
                d_f_BL.add_(at_zero_L * norms_L)
            near_L += _near(d_f_BL, h_BL[rows], norms_L, rule.gate).sum(0)
        if rule.penalised:
            near_L += _correction(h_BL, norms_L, share_L, at_zero_L, rule)
        d_log_threshold_L += through_rectangle(near_L, norms_L, rule.gate.threshold_L, rule.gate.bandwidth)
    return d_f_NG, rule.ranks.sum_over_sites(d_log_threshold_L) if rule.by_site else d_log_threshold_L


def _blocks(h_BL: Tensor, active: Active) -> list[tuple[slice, slice, Tensor]]:
    """Cut the batch into blocks of rows, each with the active entries that it has, and where they are in it."""
    rows = len(h_BL) if h_BL.is_cuda else ROWS_AT_ONCE
    starts = range(0, len(h_BL), rows)
    stops = [min(start + rows, len(h_BL)) for start in starts]
    edges = [0, *active.row_starts[stops].tolist()]
    return [
        (slice(start, stop), slice(first, last), active.flat_N[first:last] - start * h_BL.shape[1])
        for start, stop, (first, last) in zip(starts, stops, pairwise(edges), strict=True)
    ]


def _near(d_f_BL: Tensor, h_BL: Tensor, norms_L: Tensor, gate: Gate) -> Tensor:
    """Keep a gradient where |h n - t| < w / 2."""
    beyond_BL = (h_BL * norms_L).sub_(gate.threshold_L)
    half = gate.bandwidth / 2
    near_BL: Tensor = torch.ops.aten.hardtanh_backward(d_f_BL, beyond_BL, -half, half)
    return near_BL


def _correction(h_BL: Tensor, norms_L: Tensor, share_L: Tensor, at_zero_L: Tensor, rule: Rule) -> Tensor:
    """Replace the penalty's slope at f = 0 by the one at f where an entry fires (shape: [L])."""
    assert rule.gate is not None
    latent_N = rule.active.latent_N
    norms_N, threshold_N = norms_L.index_select(0, latent_N), rule.gate.threshold_L.index_select(0, latent_N)
    z_N = h_BL.view(-1).index_select(0, rule.active.flat_N) * norms_N
    slope_N = activity_slope(z_N, rule.tanh_scale) * share_L.index_select(0, latent_N)
    counts_N = (z_N > threshold_N) & (z_N - threshold_N < rule.gate.bandwidth / 2)
    return summed_by_latent((slope_N - at_zero_L.index_select(0, latent_N)) * norms_N * counts_N, rule.active)
