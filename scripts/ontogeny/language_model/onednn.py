"""Linear layers in float32 by oneDNN instead of MKL.

Both compute the same product in the same precision, but MKL keeps to AVX2 on processors that are not Intel's, where the
AVX-512 kernels of oneDNN are twice as fast. Where PyTorch was built without oneDNN, everything here is `F.linear`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
"""Whether this build of PyTorch has oneDNN's linear layer."""


class Context(Protocol):
    """What a function of autograd keeps from its forward to its backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors."""


class OneDNNLinear(TorchFunctionMode):
    """A `with` block in which `F.linear`, and so `nn.Linear`, runs by oneDNN, forward and backward."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Tensor, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Replace `F.linear`; every other function is called as it is."""
        if func is functional.linear and not kwargs and _suits_onednn(args[0]):
            return _Linear.apply(*args, *(None,) * (3 - len(args)))  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def matmul_transposed(a_NK: Tensor, b_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Multiply `a_NK @ b_MK.T`, and add the bias; outside autograd.

    Args:
        a_NK: (..., K), with any number of leading axes; copied if it is not contiguous.
        b_MK: (M, K), in any layout.
        bias_M: (M).

    Returns:
        (..., M), the same as `F.linear(a_NK, b_MK, bias_M)` but for rounding.
    """
    if not _suits_onednn(a_NK):
        return functional.linear(a_NK, b_MK, bias_M)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a_NK, b_MK, bias_M, "none", [], "")
    return product


def weight_gradient(gradient_NM: Tensor, x_NK: Tensor) -> Tensor:
    """Multiply `gradient_NM.T @ x_NK`, (M, K), outside autograd; of the two only the narrower is copied."""
    if x_NK.shape[1] < gradient_NM.shape[1]:
        return matmul_transposed(x_NK.t(), gradient_NM.t()).t()
    return matmul_transposed(gradient_NM.t(), x_NK.t())


def _suits_onednn(x: Tensor) -> bool:
    return AVAILABLE and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


class _Linear(torch.autograd.Function):
    """`F.linear` with the products of its gradient by oneDNN too."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight_MK: Tensor, bias_M: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_MK)
        return matmul_transposed(x, weight_MK, bias_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_MK = ctx.saved_tensors
        gradient_NM = gradient.reshape(-1, gradient.shape[-1])
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            matmul_transposed(gradient, weight_MK.t()) if for_x else None,
            weight_gradient(gradient_NM, x.reshape(-1, x.shape[-1])) if for_weight else None,
            gradient_NM.sum(0) if for_bias else None,
        )
