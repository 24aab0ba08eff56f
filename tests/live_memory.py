"""How many bytes of tensors are alive at once while code runs."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """A `with` block that follows the memory of every tensor made in it; what an operation takes inside is left out.

    Attributes:
        live: bytes of the tensors that are alive.
        peak: the most that `live` was since `peak` was last set.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        """Begin at 0.

        Args:
            before: tensors of before, which are not counted; views of others would be.
        """
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()
        for tensor in before:
            self._follow(tensor.untyped_storage(), 0)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                self._follow(storage, storage.nbytes())
        return result

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        number = storage._cdata
        if number not in self._known:
            self._known.add(number)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, number, size)

    def _forget(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.live -= size
