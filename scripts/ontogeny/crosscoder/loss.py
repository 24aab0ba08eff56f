"""The terms of the loss, all of them means over the batch: a batch and two copies of it give the same gradients.

Errors are summed over sites and channels of the scaled activations, which have a mean norm of sqrt(D) at every site.
So every site has the same say, and one site more adds to the error as its decoder norms add to the price of a latent.
This is the normalisation of Lindsey et al. (2024); the mean over sites of Ge et al. (2025) divides it by S.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from ontogeny.autograd import Context
from ontogeny.crosscoder.nonlinearity import topk
from ontogeny.crosscoder.products import product

ROWS_AT_ONCE = 128
"""Rows of a code that activity is measured of at once."""


def squared_error(error: Tensor) -> Tensor:
    """Sum ||x_hat - x||^2 over sites and channels, and take the mean over the batch.

    Args:
        error: x_hat - x (shape: [B, ...]).

    Returns:
        A scalar, in squared scaled units a row.
    """
    return _SquaredError.apply(error)  # type: ignore[no-any-return, no-untyped-call]


class _SquaredError(Function):
    """One pass over the error forward, and one backward."""

    @staticmethod
    def forward(ctx: Context, error: Tensor) -> Tensor:
        ctx.save_for_backward(error)
        return torch.dot(error.flatten(), error.flatten()) / len(error)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Tensor:
        (error,) = ctx.saved_tensors
        return error * (gradients[0] * (2 / len(error)))


def mean_activity(f_BL: Tensor, norms_L: Tensor, tanh_scale: float | None) -> Tensor:
    """Take the mean over the batch of tanh(c f n), or of f n itself.

    Args:
        f_BL: code (shape: [B, L]).
        norms_L: n_i, decoder norms summed over sites (shape: [L]).
        tanh_scale: c; None leaves tanh out.

    Returns:
        (shape: [L]).
    """
    return _MeanActivity.apply(f_BL, norms_L, tanh_scale)  # type: ignore[no-any-return, no-untyped-call]


class _ActivityContext(Context, Protocol):
    tanh_scale: float | None


class _MeanActivity(Function):
    """A few rows at a time, forward and backward, so that next to nothing but the gradient has the size of the code."""

    @staticmethod
    def forward(ctx: _ActivityContext, f_BL: Tensor, norms_L: Tensor, tanh_scale: float | None) -> Tensor:
        ctx.save_for_backward(f_BL, norms_L)
        ctx.tanh_scale = tanh_scale
        total_L = torch.zeros_like(norms_L)
        for f_RL in torch.split(f_BL, ROWS_AT_ONCE):
            total_L += activity_of(f_RL * norms_L, tanh_scale).sum(0)
        return total_L / len(f_BL)

    @staticmethod
    def backward(ctx: _ActivityContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        f_BL, norms_L = ctx.saved_tensors
        share_L, d_f_BL, d_norms_L = gradients[0] / len(f_BL), torch.empty_like(f_BL), torch.zeros_like(norms_L)
        for f_RL, d_f_RL in zip(torch.split(f_BL, ROWS_AT_ONCE), torch.split(d_f_BL, ROWS_AT_ONCE), strict=True):
            d_z_RL = activity_gradient(share_L, f_RL * norms_L, ctx.tanh_scale)
            d_norms_L += (d_z_RL * f_RL).sum(0)
            torch.mul(d_z_RL, norms_L, out=d_f_RL)
        return d_f_BL, d_norms_L, None


def activity_of(z: Tensor, tanh_scale: float | None) -> Tensor:
    """Compute tanh(c z) of z = f n (any shape), or give back z itself where tanh is left out.

    As 2 / (1 + exp(-2 c z)) - 1, tanh takes a CPU a fifth of the time; rounding errors are about 1e-7 all the same.
    """
    if tanh_scale is None:
        return z
    return (z * (2 * tanh_scale)).sigmoid_().mul_(2).sub_(1)


def activity_gradient(gradient: Tensor, z: Tensor, tanh_scale: float | None) -> Tensor:
    """Carry a gradient for tanh(c z), or for z itself, over to z = f n (any shape that `gradient` broadcasts to)."""
    if tanh_scale is None:
        return gradient.expand_as(z)
    d_z: Tensor = torch.ops.aten.tanh_backward(gradient * tanh_scale, activity_of(z, tanh_scale))
    return d_z


def activity_count(rows: int, parts: int, tanh_scale: float | None) -> int:
    """Count what a sum of activity over rows and over parts that are gated together is divided by."""
    return rows if tanh_scale is None else rows * parts


def tanh_quad(activity_L: Tensor, frequency_scale: float) -> Tensor:
    """Sum p (1 + p / s) over latents, p a latent's mean tanh: dense latents cost more (Ge et al. 2025).

    Args:
        activity_L: p (shape: [L]).
        frequency_scale: s.

    Returns:
        A scalar.
    """
    return (activity_L * (1 + activity_L / frequency_scale)).sum()


def auxk(
    h_BN: Tensor,
    W_dec_NSD: Tensor,
    norms_N: Tensor,
    error_BSD: Tensor,
    k: int,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Let dead latents reconstruct what is left of the error (Gao et al. 2024, section A.2).

    The error is a target: no gradient goes through it, and no bias is added to what the dead latents say. It is reduced
    as `squared_error` reduces the reconstruction, so that the coefficient compares like with like.

    Args:
        h_BN: pre-activations of the N dead latents (shape: [B, N]).
        W_dec_NSD: their decoders (shape: [N, S, D]).
        norms_N: their decoder norms, summed over sites (shape: [N]).
        error_BSD: x - x_hat (shape: [B, S, D]).
        k: dead latents used on a row, those with the largest h n; all of them if there are fewer.
        precision: type of the factors in the product.

    Returns:
        A scalar, in squared scaled units a row.
    """
    f_BN = topk(h_BN, norms_N, k)
    return squared_error(product(f_BN, W_dec_NSD.flatten(1), precision) - error_BSD.detach().flatten(1))
