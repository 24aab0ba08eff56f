"""Matrix products in the precision of a run."""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from ontogeny.autograd import Context
from ontogeny.onednn import MULTIPLIES_BFLOAT16


def product(a: Tensor, b: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Multiply two matrices, `a @ b`.

    Args:
        a: (shape: [m, k]) float32, or float64 in tests.
        b: (shape: [k, n]) of the same type.
        precision: type of the factors inside the product, forward and backward; what comes out has the type of `a`.
    """
    if precision == torch.bfloat16:
        return _BFloat16Product.apply(a, b)  # type: ignore[no-any-return, no-untyped-call]
    return a @ b


def rounded_product(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    """Multiply as `product` does, where no gradient is recorded."""
    return product_of_rounded(rounded(a, precision), rounded(b, precision)).to(a.dtype)


def rounded(a: Tensor, precision: torch.dtype) -> Tensor:
    """Round a factor as `product` does."""
    return a.bfloat16() if precision == torch.bfloat16 else a


def product_of_rounded(a: Tensor, b: Tensor) -> Tensor:
    """Multiply rounded matrices; a CPU that cannot multiply bfloat16 takes many times as long as it does in float32."""
    if a.dtype == torch.bfloat16 and a.device.type == "cpu" and not MULTIPLIES_BFLOAT16:
        return a.float() @ b.float()
    return a @ b


def with_gradient(
    h_BL: Tensor, x_BM: Tensor, W_enc_LM: Tensor, b_enc_L: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """Give pre-activations that were computed without a gradient the one of `product(x, W.T) + b`.

    Args:
        h_BL: the pre-activations (shape: [B, L]).
        x_BM: scaled activations (shape: [B, S D]); no gradient reaches them.
        W_enc_LM: encoder, latent by latent (shape: [L, S D]).
        b_enc_L: its bias.
        precision: type of the factors in the product of the backward pass.
    """
    return _WithGradient.apply(h_BL, x_BM, W_enc_LM, b_enc_L, precision)  # type: ignore[no-any-return, no-untyped-call]


class _PrecisionContext(Context, Protocol):
    precision: torch.dtype


class _WithGradient(Function):
    @staticmethod
    def forward(
        ctx: _PrecisionContext,
        h_BL: Tensor,
        x_BM: Tensor,
        _W_enc_LM: Tensor,
        _b_enc_L: Tensor,
        precision: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x_BM)
        ctx.precision = precision
        return h_BL.view_as(h_BL)

    @staticmethod
    def backward(ctx: _PrecisionContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x_BM,) = ctx.saved_tensors
        return None, None, rounded_product(gradients[0].T, x_BM, ctx.precision), gradients[0].sum(0), None


class _BFloat16Product(Function):
    """`a @ b` with bfloat16 factors; gradients are kept in the type of the inputs.

    Factors are rounded again for the gradient: others keep them as they are anyway.
    """

    @staticmethod
    def forward(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return rounded_product(a, b, torch.bfloat16)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        low = gradients[0].bfloat16()
        return (
            product_of_rounded(low, b.bfloat16().T).to(a.dtype) if ctx.needs_input_grad[0] else None,
            product_of_rounded(a.bfloat16().T, low).to(b.dtype) if ctx.needs_input_grad[1] else None,
        )
