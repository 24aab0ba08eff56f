"""What functions of autograd have in common."""

from typing import Protocol

from torch import Tensor


class Context(Protocol):
    """What a function of autograd keeps from its forward to its backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors."""
