"""Which contexts of the heldout split are read, and which of their positions count."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ontogeny.tokens import Tokens


class Contexts(NamedTuple):
    """Some contexts, and the positions in them that count."""

    tokens: Tensor
    """Token ids, (B, T)."""
    replaced: Tensor
    """Positions that dictionaries see, (B, T); at the others the model keeps its own activation in every variant."""
    counted: Tensor
    """Positions with a next token to predict, (B, T - 1)."""
    document: Tensor
    """Document of each context by its number in the split, (B)."""

    def split(self, size: int) -> list["Contexts"]:
        """Cut into parts of `size` contexts, the last one perhaps shorter."""
        return [Contexts(*parts) for parts in zip(*(torch.split(part, size) for part in self), strict=True)]


def spaced_contexts(tokens: Tokens, positions: int, keep_first_position: bool) -> Contexts:
    """Choose contexts evenly over a split, enough for `positions` token positions or all where there are fewer."""
    available, context_length = tokens.tokens.shape
    count = min(available, -(-positions // context_length))
    chosen = np.arange(count, dtype=np.int64) * available // count
    position_T = torch.arange(context_length)
    length_B1 = torch.from_numpy(tokens.length[chosen].astype(np.int64))[:, None]
    return Contexts(
        torch.from_numpy(tokens.tokens[chosen].astype(np.int64)),
        (position_T >= (0 if keep_first_position else 1)) & (position_T < length_B1),
        position_T[1:] < length_B1,
        torch.from_numpy(tokens.document[chosen].astype(np.int64)),
    )
