"""Which latents fire: pure functions from pre-activations h and decoder norms n to the code f.

All of them compare h n with something, never h alone: h n is what a latent adds to the reconstruction, and it stays the
same when an encoder grows and a decoder shrinks by one factor. A latent that does not fire is exactly 0, one that fires
is above 0.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from ontogeny.autograd import Context

SAMPLED_FROM = 16384
"""Entries from which the k-th largest is looked for among the upper ones alone; also about the size of the sample."""


def kth_largest(values: Tensor, k: int) -> Tensor:
    """Find the k-th largest entry along the last axis.

    Args:
        values: (shape: [..., n]).
        k: at least 1; from n on, the smallest entry is the answer.

    Returns:
        (shape: [..., 1]), without a gradient. Equal to `values.topk(k).values[..., -1:]`.
    """
    values = values.detach()
    n = values.shape[-1]
    k = min(k, n)
    if values.device.type == "cpu" and values.ndim == 1 and n > SAMPLED_FROM:
        return _kth_largest_of_many(values, k)
    if values.device.type == "cpu" and k > n // 32:
        return torch.from_numpy(np.partition(values.numpy(), n - k, axis=-1)[..., n - k, None])
    return values.topk(k, sorted=False).values.amin(-1, keepdim=True)


def _kth_largest_of_many(values_n: Tensor, k: int) -> Tensor:
    """Partition the upper part of the entries alone: a sample says where it begins, and a count that it holds k."""
    n = len(values_n)
    sample = values_n[:: n // SAMPLED_FROM | 1].numpy()  # an odd stride, or it would meet few latents
    rank = int(len(sample) * min(1.0, 1.2 * k / n + 0.002))
    if rank < len(sample):
        candidates = values_n[values_n > float(np.partition(sample, len(sample) - 1 - rank)[len(sample) - 1 - rank])]
        if len(candidates) >= k:
            values_n = candidates
    n = len(values_n)
    return torch.from_numpy(np.partition(values_n.numpy(), n - k)[n - k, None])


def firing_above(h: Tensor, norms: Tensor, threshold: Tensor) -> Tensor:
    """Let latents fire where h n > threshold.

    Args:
        h: pre-activations (shape: [B, L], or one that broadcasts with the others).
        norms: decoder norms (shape: [L], or [S, L] against an h of [B, 1, L]).
        threshold: (shape: [L] or [1]), not negative.

    Returns:
        f of the broadcast shape.
    """
    return torch.where(h.detach() * norms.detach() > threshold, h, 0.0)


def topk(h_BL: Tensor, norms_L: Tensor, k: int) -> Tensor:
    """Keep the k latents of each row that have the largest h n, if they are above 0 (Gao et al. 2024).

    Latents that tie for the last place are all kept, so that the code does not depend on the order of latents.

    Args:
        h_BL: pre-activations (shape: [B, L]).
        norms_L: decoder norms (shape: [L]).
        k: latents kept in a row.

    Returns:
        f (shape: [B, L]).
    """
    return torch.where(largest(h_BL.detach() * norms_L.detach(), k), h_BL, 0.0)


def largest(score_BL: Tensor, k: int) -> Tensor:
    """Mark the k largest scores of each row, of those above 0, and whatever ties for the last place (shape: [B, L])."""
    return not_below(score_BL, kth_largest(score_BL, k))


def largest_of_batch(score_BL: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mark the k B largest scores of the batch, of those above 0, for `batchtopk` (Bussmann et al. 2024).

    Whatever ties for the last place is marked too: a batch and two copies of it give the same code.

    Returns:
        Marks (shape: [B, L]), and the smallest score marked (shape: [1]), 0 if everything above 0 was.
    """
    least = kth_largest(score_BL.view(-1), k * len(score_BL)).clamp_min(0.0)
    return not_below(score_BL, least), least


def not_below(score_BL: Tensor, least: Tensor) -> Tensor:
    """Mark the scores of at least `least`, of those above 0 (shape: [B, L])."""
    return score_BL >= least.clamp_min(_tiny(score_BL))


class Gate(NamedTuple):
    """The learnt thresholds of `jumprelu`."""

    threshold_L: Tensor
    """t, on h n."""
    log_threshold_L: Tensor
    """The parameter, log t; its gradient is what the gate is about, its value is not read."""
    bandwidth: float
    """w, the width of the rectangle through which it learns, on h n."""


def jumprelu(h_BL: Tensor, norms_L: Tensor, gate: Gate) -> Tensor:
    """Let latents fire where h n > t, with a gradient for t through a rectangle around it.

    With z = h n and J(z) = z 1[z > t], f = J(z) / n. The straight-through gradient of Rajamanoharan et al. (2024), in
    the form of Anthropic's January 2025 update, is dJ / dlog t = -(t^2 / w) 1[|z - t| < w / 2]; none goes to z or n
    through the gate.

    Args:
        h_BL: pre-activations (shape: [B, L]).
        norms_L: decoder norms (shape: [L]), of all sites together or of one.
        gate: thresholds.

    Returns:
        f (shape: [B, L]).
    """
    return _JumpReLU.apply(h_BL, norms_L.detach(), *gate)  # type: ignore[no-any-return, no-untyped-call]


def threshold_gradient(
    gradient_BL: Tensor, h_BL: Tensor, norms_L: Tensor, threshold_L: Tensor, bandwidth: float
) -> Tensor:
    """Carry a gradient for f over to log t, by the rectangle of `jumprelu`.

    Args:
        gradient_BL: gradient for f (shape: [B, L]).
        h_BL: pre-activations (shape: [B, L]).
        norms_L: decoder norms (shape: [L]).
        threshold_L: t (shape: [L]).
        bandwidth: w.

    Returns:
        Gradient for log t (shape: [L]). A latent without a decoder gets 0.
    """
    near_BL = (h_BL * norms_L - threshold_L).abs() < bandwidth / 2
    return through_rectangle(torch.where(near_BL, gradient_BL, 0.0).sum(0), norms_L, threshold_L, bandwidth)


def through_rectangle(near_L: Tensor, norms_L: Tensor, threshold_L: Tensor, bandwidth: float) -> Tensor:
    """Carry a gradient for f, summed over the entries near the threshold, over to log t; the rest as above."""
    return -torch.where(norms_L > 0, threshold_L.square() / (bandwidth * norms_L), 0.0) * near_L


class _GateContext(Context, Protocol):
    bandwidth: float


class _JumpReLU(Function):
    @staticmethod
    def forward(
        ctx: _GateContext,
        h_BL: Tensor,
        norms_L: Tensor,
        threshold_L: Tensor,
        _log_threshold_L: Tensor,
        bandwidth: float,
    ) -> Tensor:
        ctx.save_for_backward(h_BL, norms_L, threshold_L)
        ctx.bandwidth = bandwidth
        return firing_above(h_BL, norms_L, threshold_L)

    @staticmethod
    def backward(ctx: _GateContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h_BL, norms_L, threshold_L = ctx.saved_tensors
        d_h_BL = torch.where(h_BL * norms_L > threshold_L, gradients[0], 0.0)
        d_log_threshold_L = threshold_gradient(gradients[0], h_BL, norms_L, threshold_L, ctx.bandwidth)
        return d_h_BL, None, None, d_log_threshold_L, None


def _tiny(like: Tensor) -> float:
    """Smallest normal number of a tensor's type: `score >= tiny` is how a comparison with >= says `above 0`."""
    return torch.finfo(like.dtype).tiny
