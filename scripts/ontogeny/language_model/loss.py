"""The next-token loss of a model that is being trained."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ontogeny.autograd import Context
from ontogeny.onednn import matmul_transposed, weight_gradient

ROWS_AT_ONCE = 256
"""Positions whose logits exist at the same time."""


def linear_cross_entropy(
    hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """Mean cross-entropy of `hidden_ND @ unembedding_VD.T`, in nats, without ever holding all logits.

    The same as `F.cross_entropy(F.linear(hidden_ND, unembedding_VD), targets_N)`. The gradient is made together with
    the loss, `ROWS_AT_ONCE` positions at a time: logits are used up while they are still in the processor's cache.

    Args:
        hidden_ND: (N, D), what the unembedding reads.
        unembedding_VD: (V, D).
        targets_N: (N), ids of the tokens that follow, int64.
        precision: `float32`, or `bfloat16`: the type that the factors of the three products are rounded to.

    Returns:
        The loss, a scalar.
    """
    return _LinearCrossEntropy.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden_ND, unembedding_VD, targets_N, precision
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, precision: torch.dtype
    ) -> Tensor:
        rows = len(targets_N)
        hidden_gradient_ND = torch.empty_like(hidden_ND)
        unembedding_gradient_VD = unembedding_VD.new_zeros(unembedding_VD.shape[::-1]).t()
        x_ND, unembedding_VD = hidden_ND.to(precision), unembedding_VD.to(precision)
        unembedding_DV = unembedding_VD.t().contiguous()
        total = hidden_ND.new_zeros(())
        for start in range(0, rows, ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            logits_NV = matmul_transposed(x_ND[block], unembedding_VD)
            each = (torch.arange(len(logits_NV), device=targets_N.device), targets_N[block])
            probability_NV = logits_NV.softmax(1)
            # log(sum(exp(logits))) = max(logits) - log(max(probability)), and no softmax has a maximum near 0.
            total += (logits_NV.amax(1) - logits_NV[each]).sum() - probability_NV.amax(1).log().sum()
            probability_NV[each] -= 1
            gradient_NV = probability_NV.to(precision)
            hidden_gradient_ND[block] = matmul_transposed(gradient_NV, unembedding_DV)
            unembedding_gradient_VD += weight_gradient(gradient_NV, x_ND[block])
        ctx.save_for_backward(hidden_gradient_ND.div_(rows), unembedding_gradient_VD.div_(rows))
        return total / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_gradient_ND, unembedding_gradient_VD = ctx.saved_tensors
        return hidden_gradient_ND * gradient, unembedding_gradient_VD * gradient, None, None
