"""Features of any tokens, through the checkpoints of all sites."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.language_model.bridge import hooked_activations

POSITIONS_AT_ONCE = 8192
"""Token positions in one forward pass."""
ROWS_AT_ONCE = 1024
"""Rows encoded at once."""


@torch.inference_mode()
def read_activations(crosscoder: Crosscoder, checkpoints: Checkpoints, tokens_BT: Tensor, last: int) -> Tensor:
    """Read the activations of all sites at the last positions of contexts, each site at its own checkpoint.

    Args:
        crosscoder: the dictionary, which knows its sites.
        checkpoints: the models of all sites.
        tokens_BT: token ids (shape: [B, T]).
        last: how many positions, P, are read, from the end.

    Returns:
        Raw activations (shape: [B, P, S, D]).
    """
    x_BPSD = torch.empty(len(tokens_BT), last, len(crosscoder.sites), crosscoder.d_model)
    for checkpoint in dict.fromkeys(site.checkpoint for site in crosscoder.sites):
        places = [place for place, site in enumerate(crosscoder.sites) if site.checkpoint == checkpoint]
        hooks = [crosscoder.sites[place].hook for place in places]
        start = 0
        for part_BT in torch.split(tokens_BT, max(1, POSITIONS_AT_ONCE // tokens_BT.shape[1])):
            own = hooked_activations(checkpoints[checkpoint], part_BT, hooks)
            for place, hook in zip(places, hooks, strict=True):
                x_BPSD[start : start + len(part_BT), :, place] = own[hook][:, -last:].float().cpu()
            start += len(part_BT)
    return x_BPSD


@torch.inference_mode()
def encoded(crosscoder: Crosscoder, x_NSD: Tensor) -> Iterator[Tensor]:
    """Encode rows, some at a time; under gate `site` a feature is as active as at its most active site.

    Args:
        crosscoder: the dictionary.
        x_NSD: raw activations (shape: [N, S, D]).

    Yields:
        Feature activations of the next rows (shape: [B, L]).
    """
    for part_BSD in torch.split(x_NSD, ROWS_AT_ONCE):
        f = crosscoder.encode(part_BSD.to(crosscoder.W_dec.device))
        yield f if f.ndim == 2 else f.amax(1)
