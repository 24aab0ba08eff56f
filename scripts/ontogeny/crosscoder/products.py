"""Matrix products in the precision of a run."""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function


class Context(Protocol):
    """What a function of autograd keeps from its forward to its backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors."""


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
    if precision == torch.bfloat16:
        return (a.bfloat16() @ b.bfloat16()).to(a.dtype)
    return a @ b


class _BFloat16Product(Function):
    """`a @ b` with bfloat16 factors; gradients are kept in the type of the inputs."""

    @staticmethod
    def forward(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
        low_a, low_b = a.bfloat16(), b.bfloat16()
        ctx.save_for_backward(low_a, low_b)
        return (low_a @ low_b).to(a.dtype)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        low_a, low_b = ctx.saved_tensors
        gradient = gradients[0]
        low = gradient.bfloat16()
        return (
            (low @ low_b.T).to(gradient.dtype) if ctx.needs_input_grad[0] else None,
            (low_a.T @ low).to(gradient.dtype) if ctx.needs_input_grad[1] else None,
        )
