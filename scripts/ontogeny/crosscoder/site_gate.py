"""Gate `site`: a latent fires at each site by its decoder norm there, f_is = h_i 1[h_i n_is > t_i].

The code of such a crosscoder has a site axis, (B, S, L), which is S times as large as everything else in a step. The
two functions here go through it site by site, forward and again backward, and never hold it.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from ontogeny.autograd import Context
from ontogeny.crosscoder.loss import activity_count, activity_slope
from ontogeny.crosscoder.nonlinearity import Gate, firing_above, threshold_gradient
from ontogeny.crosscoder.products import rounded_product


def decode_gated(
    h_BL: Tensor, W_dec_LSD: Tensor, norms_LS: Tensor, gate: Gate, precision: torch.dtype = torch.float32
) -> Tensor:
    """Decode the gated code: sum_i f_is W_dec[i, s].

    Equal to `einsum("bsl,lsd->bsd", f, W_dec)` with f[:, s] = `jumprelu(h, n[:, s], gate)`.

    Args:
        h_BL: pre-activations (shape: [B, L]).
        W_dec_LSD: decoder (shape: [L, S, D]).
        norms_LS: decoder norms (shape: [L, S]); no gradient reaches them.
        gate: thresholds.
        precision: type of the factors in the products.

    Returns:
        Reconstruction without its bias (shape: [B, S, D]).
    """
    return _DecodeGated.apply(h_BL, W_dec_LSD, norms_LS.detach(), *gate, precision)  # type: ignore[no-any-return, no-untyped-call]


def gated_activity(h_BL: Tensor, norms_LS: Tensor, gate: Gate, tanh_scale: float | None) -> Tensor:
    """Take the mean over the batch of f_is n_is summed over sites, or of tanh(c f_is n_is) averaged over sites.

    Args:
        h_BL: pre-activations (shape: [B, L]).
        norms_LS: decoder norms (shape: [L, S]).
        gate: thresholds.
        tanh_scale: c; None leaves tanh out.

    Returns:
        (shape: [L]).
    """
    return _GatedActivity.apply(h_BL, norms_LS, *gate, tanh_scale)  # type: ignore[no-any-return, no-untyped-call]


class _GateContext(Context, Protocol):
    bandwidth: float
    precision: torch.dtype
    tanh_scale: float | None


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
        precision: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(h_BL, W_dec_LSD, norms_LS, threshold_L)
        ctx.bandwidth, ctx.precision = bandwidth, precision
        decoded_BSD = h_BL.new_empty(len(h_BL), *W_dec_LSD.shape[1:])
        for site in range(W_dec_LSD.shape[1]):
            f_BL = firing_above(h_BL, norms_LS[:, site], threshold_L)
            decoded_BSD[:, site] = rounded_product(f_BL, W_dec_LSD[:, site], precision)
        return decoded_BSD

    @staticmethod
    def backward(ctx: _GateContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h_BL, W_dec_LSD, norms_LS, threshold_L = ctx.saved_tensors
        d_h_BL, d_W_dec_LSD = torch.zeros_like(h_BL), torch.empty_like(W_dec_LSD)
        d_log_threshold_L = torch.zeros_like(threshold_L)
        for site in range(W_dec_LSD.shape[1]):
            gradient_BD, norms_L = gradients[0][:, site], norms_LS[:, site]
            f_BL = firing_above(h_BL, norms_L, threshold_L)
            d_W_dec_LSD[:, site] = rounded_product(f_BL.T, gradient_BD, ctx.precision)
            d_f_BL = rounded_product(gradient_BD, W_dec_LSD[:, site].T, ctx.precision)
            d_log_threshold_L += threshold_gradient(d_f_BL, h_BL, norms_L, threshold_L, ctx.bandwidth)
            d_h_BL += d_f_BL.mul_(f_BL > 0)
        return d_h_BL, d_W_dec_LSD, None, None, d_log_threshold_L, None, None


class _GatedActivity(Function):
    @staticmethod
    def forward(
        ctx: _GateContext,
        h_BL: Tensor,
        norms_LS: Tensor,
        threshold_L: Tensor,
        _log_threshold_L: Tensor,
        bandwidth: float,
        tanh_scale: float | None,
    ) -> Tensor:
        ctx.save_for_backward(h_BL, norms_LS, threshold_L)
        ctx.bandwidth, ctx.tanh_scale = bandwidth, tanh_scale
        total_L = torch.zeros_like(threshold_L)
        for norms_L in norms_LS.T:
            z_BL = firing_above(h_BL, norms_L, threshold_L) * norms_L
            total_L += (z_BL if tanh_scale is None else z_BL.mul_(tanh_scale).tanh_()).sum(0)
        return total_L / activity_count(len(h_BL), norms_LS.shape[1], tanh_scale)

    @staticmethod
    def backward(ctx: _GateContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h_BL, norms_LS, threshold_L = ctx.saved_tensors
        share_L = gradients[0] / activity_count(len(h_BL), norms_LS.shape[1], ctx.tanh_scale)
        d_h_BL, d_norms_LS = torch.zeros_like(h_BL), torch.empty_like(norms_LS)
        d_log_threshold_L = torch.zeros_like(threshold_L)
        for site, norms_L in enumerate(norms_LS.T):
            f_BL = firing_above(h_BL, norms_L, threshold_L)
            d_z_BL = activity_slope(f_BL * norms_L, ctx.tanh_scale) * share_L
            d_norms_LS[:, site] = (d_z_BL * f_BL).sum(0)
            d_f_BL = d_z_BL.mul_(norms_L)
            d_log_threshold_L += threshold_gradient(d_f_BL, h_BL, norms_L, threshold_L, ctx.bandwidth)
            d_h_BL += d_f_BL.mul_(f_BL > 0)
        return d_h_BL, d_norms_LS, None, d_log_threshold_L, None, None
