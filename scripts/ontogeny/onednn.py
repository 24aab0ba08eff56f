"""Linear layers by oneDNN instead of MKL, with factors in float32 or bfloat16.

Both libraries compute the same product in the same precision, but MKL keeps to AVX2 on processors that are not Intel's,
where the AVX-512 kernels of oneDNN are twice as fast. Where PyTorch was built without oneDNN, everything here is
`F.linear`.

Factors in bfloat16 halve the time again on processors that multiply them. On others PyTorch takes up to eight times as
long as in float32, so there factors are rounded to bfloat16 all the same and multiplied in float32.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ontogeny.autograd import Context

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
"""Whether this build of PyTorch has oneDNN's linear layer."""

MULTIPLIES_BFLOAT16 = AVAILABLE and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
"""Whether the processor has instructions for products of bfloat16."""


class OneDNNLinear(TorchFunctionMode):
    """A `with` block in which `F.linear`, and so `nn.Linear`, runs by oneDNN, forward and backward."""

    def __init__(self, precision: torch.dtype = torch.float32) -> None:
        """Choose the type that factors in float32 are rounded to; products and their gradients stay float32."""
        super().__init__()
        self._precision = precision

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Tensor, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Replace `F.linear`; every other function is called as it is."""
        if func is functional.linear and not kwargs and self._suits(args[0]):
            return _Linear.apply(*args, *(None,) * (3 - len(args)), self._precision)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))

    def _suits(self, x: Tensor) -> bool:
        return _suits_onednn(x) or (self._precision == torch.bfloat16 and x.dtype == torch.float32)


def matmul_transposed(a_NK: Tensor, b_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Multiply `a_NK @ b_MK.T`, and add the bias; outside autograd.

    Args:
        a_NK: (..., K), with any number of leading axes; copied if it is not contiguous.
        b_MK: (M, K), of the same type; copied if there are gaps between its rows or columns.
        bias_M: (M), float32 where the factors are bfloat16.

    Returns:
        (..., M), the same as `F.linear(a_NK, b_MK, bias_M)` but for rounding; float32 where the factors are bfloat16.
    """
    if a_NK.dtype == torch.bfloat16:
        return _bfloat16_product(a_NK, b_MK, bias_M)
    if not _suits_onednn(a_NK):
        return functional.linear(a_NK, b_MK, bias_M)
    if not (b_MK.is_contiguous() or b_MK.t().is_contiguous()):
        # With gaps between rows oneDNN takes a thousand times as long; the queries of GPT-2 are cut out so.
        b_MK = b_MK.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a_NK, b_MK, bias_M, "none", [], "")
    return product


def weight_gradient(gradient_NM: Tensor, x_NK: Tensor) -> Tensor:
    """Multiply `gradient_NM.T @ x_NK`, (M, K), outside autograd; of the two only the narrower is copied."""
    if x_NK.shape[1] < gradient_NM.shape[1]:
        return matmul_transposed(x_NK.t(), gradient_NM.t()).t()
    return matmul_transposed(gradient_NM.t(), x_NK.t())


def _bfloat16_product(a_NK: Tensor, b_MK: Tensor, bias_M: Tensor | None) -> Tensor:
    if a_NK.device.type == "cpu" and not MULTIPLIES_BFLOAT16:
        return matmul_transposed(a_NK.float(), b_MK.float(), bias_M)
    product = functional.linear(a_NK, b_MK).float()
    return product if bias_M is None else product.add_(bias_M)


def _suits_onednn(x: Tensor) -> bool:
    return AVAILABLE and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


class _Linear(torch.autograd.Function):
    """`F.linear` with the products of its gradient by oneDNN too."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight_MK: Tensor, bias_M: Tensor | None, precision: torch.dtype) -> Tensor:
        x, weight_MK = x.to(precision), weight_MK.to(precision)
        ctx.save_for_backward(x, weight_MK)
        return matmul_transposed(x, weight_MK, bias_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_MK = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        rounded = gradient.to(x.dtype)
        x_NK, rounded_NM = (factor.reshape(-1, factor.shape[-1]) for factor in (x, rounded))
        return (
            matmul_transposed(rounded, weight_MK.t()) if for_x else None,
            weight_gradient(rounded_NM, x_NK) if for_weight else None,
            gradient.reshape(rounded_NM.shape).sum(0) if for_bias else None,
            None,
        )
