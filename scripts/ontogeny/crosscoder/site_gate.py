"""Gate `site`, densely: a latent fires at each site by its decoder norm there, f_is = h_i 1[h_i n_is > t_i].

The code of such a crosscoder has a site axis, (B, S, L), which is S times as large as everything else in a step. The
function here never holds it: forward it goes over a few rows at a time and backward over a few latents, site by site,
while they are in the cache.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from ontogeny.autograd import Context
from ontogeny.crosscoder.loss import activity_count, activity_gradient, activity_of
from ontogeny.crosscoder.nonlinearity import Gate, through_rectangle
from ontogeny.crosscoder.products import product_of_rounded, rounded

ROWS_AT_ONCE, LATENTS_AT_ONCE = 128, 256
"""What a CPU goes over while it is in its cache."""


class Gated(NamedTuple):
    """What comes of a gated code."""

    decoded_BSD: Tensor
    """Reconstruction without its bias: sum_i f_is W_dec[i, s]."""
    activity_L: Tensor
    """Mean over the batch of f_is n_is summed over sites, or of tanh(c f_is n_is) averaged over sites."""


class Activity(NamedTuple):
    """Which activity is measured."""

    wanted: bool
    """Whether anything becomes of it; it is 0 if nothing does."""
    tanh_scale: float | None
    """c; None leaves tanh out."""


def decode_gated(
    h_BL: Tensor,
    W_dec_LSD: Tensor,
    norms_LS: Tensor,
    gate: Gate,
    activity: Activity,
    precision: torch.dtype = torch.float32,
) -> Gated:
    """Decode the gated code, and measure its activity.

    Equal to the plain expressions of f with f[:, s] = `jumprelu(h, n[:, s], gate)`, in value and in every gradient.

    Args:
        h_BL: pre-activations (shape: [B, L]).
        W_dec_LSD: decoder (shape: [L, S, D]).
        norms_LS: decoder norms (shape: [L, S]); the gradient of activity reaches them.
        gate: thresholds.
        activity: which activity is measured.
        precision: type of the factors in the products.
    """
    return Gated(*_DecodeGated.apply(h_BL, W_dec_LSD, norms_LS, *gate, activity, precision))  # type: ignore[no-untyped-call]


class _GateContext(Context, Protocol):
    bandwidth: float
    activity: Activity
    precision: torch.dtype


class _DecodeGated(Function):
    @staticmethod
    def forward(
        ctx: _GateContext,
        h_BL: Tensor,
        W_dec_LSD: Tensor,
        norms_LS: Tensor,
        threshold_L: Tensor,
        _log_threshold_L: Tensor,
        bandwidth: float,
        activity: Activity,
        precision: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(h_BL, W_dec_LSD, norms_LS, threshold_L)
        ctx.bandwidth, ctx.activity, ctx.precision = bandwidth, activity, precision
        decoded_BSD = h_BL.new_empty(len(h_BL), *W_dec_LSD.shape[1:])
        total_L = torch.zeros_like(threshold_L)
        low_W_dec_LSD = rounded(W_dec_LSD, precision)
        for rows in _slices(len(h_BL), len(h_BL) if h_BL.is_cuda else ROWS_AT_ONCE):
            for site, norms_L in enumerate(norms_LS.T.contiguous()):
                f_RL, _ = _code(h_BL[rows], norms_L, threshold_L)
                decoded_BSD[rows, site] = product_of_rounded(rounded(f_RL, precision), low_W_dec_LSD[:, site])
                if activity.wanted:
                    total_L += activity_of(f_RL.mul_(norms_L), activity.tanh_scale).sum(0)
        return decoded_BSD, total_L / activity_count(len(h_BL), norms_LS.shape[1], activity.tanh_scale)

    @staticmethod
    def backward(ctx: _GateContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h_BL, W_dec_LSD, norms_LS, threshold_L = ctx.saved_tensors
        share_L = gradients[1] / activity_count(len(h_BL), norms_LS.shape[1], ctx.activity.tanh_scale)
        d_h_BL, d_W_dec_LSD = torch.empty_like(h_BL), torch.empty_like(W_dec_LSD)
        d_norms_LS, near_LS = torch.zeros_like(norms_LS), torch.empty_like(norms_LS)
        low_gradient_BSD, half = rounded(gradients[0], ctx.precision), ctx.bandwidth / 2
        for latents in _slices(len(threshold_L), len(threshold_L) if h_BL.is_cuda else LATENTS_AT_ONCE):
            h_BT, d_h_BT = h_BL[:, latents], h_BL.new_zeros(len(h_BL), len(threshold_L[latents]))
            low_W_dec_TSD = rounded(W_dec_LSD[latents], ctx.precision)
            for site, norms_T in enumerate(norms_LS[latents].T.contiguous()):
                gradient_BD = low_gradient_BSD[:, site]
                f_BT, beyond_BT = _code(h_BT, norms_T, threshold_L[latents])
                d_W_dec_LSD[latents, site] = product_of_rounded(rounded(f_BT, ctx.precision).T, gradient_BD)
                d_f_BT = product_of_rounded(gradient_BD, low_W_dec_TSD[:, site].T).to(h_BL.dtype)
                if ctx.activity.wanted:
                    d_z_BT = activity_gradient(share_L[latents], f_BT * norms_T, ctx.activity.tanh_scale)
                    d_norms_LS[latents, site] = f_BT.mul_(d_z_BT).sum(0)
                    d_f_BT.addcmul_(d_z_BT, norms_T)
                near_LS[latents, site] = torch.ops.aten.hardtanh_backward(d_f_BT, beyond_BT, -half, half).sum(0)
                d_h_BT += torch.ops.aten.threshold_backward(d_f_BT, beyond_BT, 0.0)
            d_h_BL[:, latents] = d_h_BT
        d_log_threshold_LS = through_rectangle(near_LS, norms_LS, threshold_L[:, None], ctx.bandwidth)
        return d_h_BL, d_W_dec_LSD, d_norms_LS, None, d_log_threshold_LS.sum(1), None, None, None


def _slices(length: int, at_once: int) -> list[slice]:
    return [slice(first, first + at_once) for first in range(0, length, at_once)]


def _code(h: Tensor, norms: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Compute f = h 1[h n > t], and h n - t, both contiguous."""
    beyond = torch.addcmul(-threshold, h, norms)
    f: Tensor = torch.ops.aten.threshold_backward(h, beyond, 0.0)
    return f, beyond
