"""Decoding a code, and carrying its gradients back, over the entries that fire alone.

A step of a dense crosscoder is five products of B x L x S D: the pre-activations, the reconstruction, and the gradients
of code, decoder and encoder. With N entries of B L that fire, the last four cost N / (B L) of that here. What the
thresholds of `jumprelu` learn from is not sparse, so their gradient keeps one dense product.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from ontogeny.autograd import Context
from ontogeny.crosscoder.active import Active, inner_products, summed_by_latent, weighted_rows
from ontogeny.crosscoder.loss import activity_count, activity_gradient, activity_of
from ontogeny.crosscoder.rule import Rule
from ontogeny.crosscoder.threshold_gradient import PenaltyGradient, log_threshold_gradient


class Weights(NamedTuple):
    """What gradients reach."""

    W_enc_LSD: Tensor
    """Encoder, latent by latent."""
    b_enc_L: Tensor
    """Encoder bias."""
    W_dec_LSD: Tensor
    """Decoder."""
    b_dec_SD: Tensor
    """Decoder bias."""


class Decoded(NamedTuple):
    """What comes of a code."""

    reconstruction_BSD: Tensor
    """x_hat, in scaled units."""
    activity_L: Tensor
    """Mean over rows of f n summed over sites; or of tanh(c f n), averaged over sites under gate `site`."""


def decode_active(
    x_BSD: Tensor, h_BL: Tensor, norms_LS: Tensor, norms_LG: Tensor, weights: Weights, rule: Rule
) -> Decoded:
    """Decode the code f_is = h_i 1[h_i n_is > t_i], or f_i = h_i without a gate, of the entries that fire.

    Equal to the dense expressions of `ontogeny.crosscoder.objective` in value and in every gradient. What is gated
    together is a *part*: a site under gate `site`, else all sites. Shapes here have G parts of V channels, G V = S D.

    Args:
        x_BSD: scaled activations.
        h_BL: pre-activations of x; their gradient is carried on to the encoder.
        norms_LS: decoder norms; their gradient is carried on to the decoder.
        norms_LG: decoder norms of each part: the same ones under gate `site`, else their sum over all sites.
        weights: what gradients reach.
        rule: which entries fire where.
    """
    log_threshold_L = None if rule.gate is None else rule.gate.log_threshold_L
    outputs = _DecodeActive.apply(x_BSD, h_BL, norms_LS, norms_LG, *weights, log_threshold_L, rule)  # type: ignore[no-untyped-call]
    return Decoded(*outputs)


class _RuleContext(Context, Protocol):
    rule: Rule


class _DecodeActive(Function):
    @staticmethod
    def forward(
        ctx: _RuleContext,
        x_BSD: Tensor,
        h_BL: Tensor,
        norms_LS: Tensor,
        norms_LG: Tensor,
        _W_enc_LSD: Tensor,
        _b_enc_L: Tensor,
        W_dec_LSD: Tensor,
        b_dec_SD: Tensor,
        _log_threshold_L: Tensor | None,
        rule: Rule,
    ) -> tuple[Tensor, Tensor]:
        active = rule.active
        norms_NG = norms_LG.index_select(0, active.latent_N)
        f_NG = _code(h_BL, norms_NG, rule)
        ctx.save_for_backward(x_BSD, h_BL, norms_LS, norms_LG, W_dec_LSD, f_NG)
        ctx.rule = rule
        return _decoded(W_dec_LSD, f_NG, active).view_as(x_BSD).add_(b_dec_SD), _activity(f_NG * norms_NG, rule)

    @staticmethod
    def backward(ctx: _RuleContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BSD, h_BL, norms_LS, norms_LG, W_dec_LSD, f_NG = ctx.saved_tensors
        rule, active, sum_over_sites = ctx.rule, ctx.rule.active, ctx.rule.ranks.sum_over_sites
        gradient_BGV = gradients[0].view(len(x_BSD), f_NG.shape[1], -1)
        W_dec_LGV = W_dec_LSD.view(len(W_dec_LSD), f_NG.shape[1], -1)
        norms_NG = norms_LG.index_select(0, active.latent_N)
        z_NG = f_NG * norms_NG
        penalty = _penalty_gradient(z_NG, gradients[1], rule)

        d_log_threshold_L = None
        if rule.gate is not None:
            d_log_threshold_L = log_threshold_gradient(gradient_BGV, W_dec_LGV, h_BL, norms_LG, z_NG, penalty, rule)
        d_f_NG = _code_gradient(gradient_BGV, W_dec_LGV, active)
        if not rule.by_site:
            sum_over_sites(d_f_NG)
        if penalty is not None:
            d_f_NG.addcmul_(penalty.active_NG, norms_NG)
        d_h_N = d_f_NG.mul_(f_NG != 0).sum(1)
        if rule.by_site:
            sum_over_sites(d_h_N)

        d_W_dec_LSD = _decoder_gradient(gradient_BGV, f_NG, active).view_as(W_dec_LSD)
        if penalty is not None:
            d_norms_LG = summed_by_latent(penalty.active_NG * f_NG, active)
            d_W_dec_LSD.addcmul_(W_dec_LSD, torch.where(norms_LS > 0, d_norms_LG / norms_LS, 0.0)[:, :, None])
        d_W_enc_LSD = _by_latent(x_BSD.flatten(1), d_h_N, active).view_as(W_dec_LSD)
        d_b_enc_L, d_b_dec_SD = summed_by_latent(d_h_N, active), gradients[0].sum(0)
        return None, None, None, None, d_W_enc_LSD, d_b_enc_L, d_W_dec_LSD, d_b_dec_SD, d_log_threshold_L, None


def _activity(z_NG: Tensor, rule: Rule) -> Tensor:
    """Average f n, or tanh(c f n), over rows (shape: [L]); 0 where nothing becomes of it."""
    latents, rows = len(rule.active.latent_starts) - 1, len(rule.active.row_starts) - 1
    if not rule.penalised:
        return z_NG.new_zeros(latents)
    activity_N = activity_of(z_NG, rule.tanh_scale).sum(1)
    activity_L = summed_by_latent(activity_N, rule.active) / activity_count(rows, rule.parts, rule.tanh_scale)
    return rule.ranks.sum_over_sites(activity_L) if rule.by_site else activity_L


def _penalty_gradient(z_NG: Tensor, gradient_L: Tensor, rule: Rule) -> PenaltyGradient | None:
    """Carry the gradient of activity over to f n; None where there is none."""
    if not rule.penalised:
        return None
    rows = len(rule.active.row_starts) - 1
    share_L = gradient_L / activity_count(rows, rule.parts, rule.tanh_scale)
    share_N1 = share_L.index_select(0, rule.active.latent_N)[:, None]
    d_z_NG = activity_gradient(share_N1, z_NG, rule.tanh_scale)
    return PenaltyGradient(d_z_NG, share_L * (rule.tanh_scale or 1.0))


def _code(h_BL: Tensor, norms_NG: Tensor, rule: Rule) -> Tensor:
    """Gate the active entries at each part (shape: [N, G])."""
    h_N1 = h_BL.view(-1).index_select(0, rule.active.flat_N)[:, None]
    if rule.gate is None:
        return h_N1
    return torch.where(
        h_N1 * norms_NG > rule.gate.threshold_L.index_select(0, rule.active.latent_N)[:, None], h_N1, 0.0
    )


def _decoded(W_dec_LSD: Tensor, f_NG: Tensor, active: Active) -> Tensor:
    """Sum decoders for each row, part by part (shape: [B, G, V])."""
    W_dec_LGV = W_dec_LSD.view(len(W_dec_LSD), f_NG.shape[1], -1)
    parts = [
        weighted_rows(W_dec_LGV[:, part].contiguous(), active.latent_N, active.row_starts, f_N.contiguous())
        for part, f_N in enumerate(f_NG.T)
    ]
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)


def _code_gradient(gradient_BGV: Tensor, W_dec_LGV: Tensor, active: Active) -> Tensor:
    """Carry the gradient of the reconstruction back to active entries, part by part (shape: [N, G])."""
    parts = [inner_products(gradient_BGV[:, part], W_dec_LGV[:, part], active) for part in range(W_dec_LGV.shape[1])]
    return torch.stack(parts, dim=1)


def _decoder_gradient(gradient_BGV: Tensor, f_NG: Tensor, active: Active) -> Tensor:
    """Sum gradients of the reconstruction for each latent, part by part (shape: [L, G, V])."""
    parts = [_by_latent(gradient_BGV[:, part].contiguous(), f_N, active) for part, f_N in enumerate(f_NG.T)]
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)


def _by_latent(table_BV: Tensor, weight_N: Tensor, active: Active) -> Tensor:
    """Sum rows of a batch for each latent, over the entries where it is active (shape: [L, V])."""
    weight_by_latent_N = weight_N.index_select(0, active.by_latent_N)
    return weighted_rows(table_BV, active.row_by_latent_N, active.latent_starts, weight_by_latent_N)
