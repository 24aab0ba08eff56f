"""Tensors of a run in several processes, put together for the files of one process and handed out from them."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from ontogeny.crosscoder.parallel import Ranks, together
from ontogeny.crosscoder.state import SavedState

SITE_AXES = {"W_enc_LSD": 1, "W_dec": 1, "b_dec": 0, "scales": 0, "centers": 0}
"""Tensors of a crosscoder that have a site axis, and which axis that is."""


def gather(own: Mapping[str, Tensor], axes: Mapping[str, int], sites: int, ranks: Ranks) -> dict[str, Tensor]:
    """Put tensors together over all sites on the first process, in host memory.

    The first process needs host memory for all of them, which for a state is three times the weights of all sites, and
    once more for the largest of them; the others need it for the one that is under way.

    Args:
        own: tensors of this process; names and their order are the same on all.
        axes: site axes of those that have one.
        sites: number of all sites.
        ranks: the processes.

    Returns:
        The tensors on the first process, nothing on the others.
    """
    if ranks.world == 1:
        return dict(own)
    whole = {}
    for name, tensor in own.items():
        if ranks.first:
            whole[name] = _received(tensor.detach().cpu(), axes.get(name), sites, ranks)
        elif name in axes and ranks.data == 0:
            with together():
                dist.send(tensor.detach().cpu().contiguous(), 0)
    return whole


def hand_out(saved: SavedState | None, axes: Mapping[str, int], sites: int, ranks: Ranks) -> SavedState | None:
    """Give every process its part of a state that the first one has loaded.

    Args:
        saved: the state on the first process, or None if there is none; not read on the others.
        axes: site axes of the tensors that have one.
        sites: number of all sites.
        ranks: the processes.
    """
    if ranks.world == 1:
        return saved
    header = None
    if saved is not None:
        header = saved.step, saved.rows, [(name, value.shape, value.dtype) for name, value in saved.tensors.items()]
    header = ranks.everyones(header if ranks.first else None)[0]
    if header is None:
        return None
    step, rows, described = header
    tensors = {}
    for name, shape, dtype in described:
        whole = (
            saved.tensors[name] if ranks.first and saved is not None else torch.empty(shape, dtype=dtype, device="meta")
        )
        tensors[name] = _handed_out(whole, axes.get(name), sites, ranks)
    return SavedState(step, tensors, rows)


def _received(own: Tensor, axis: int | None, sites: int, ranks: Ranks) -> Tensor:
    """Put the pieces of the site ranks behind that of the first one."""
    if axis is None:
        return own
    pieces = [own]
    for site_rank in range(1, ranks.site_ranks):
        piece = ranks.own_sites(sites, site_rank)
        shape = list(own.shape)
        shape[axis] = piece.stop - piece.start
        pieces.append(torch.empty(shape, dtype=own.dtype))
        with together():
            dist.recv(pieces[-1], site_rank)
    return torch.cat(pieces, axis)


def _handed_out(whole: Tensor, axis: int | None, sites: int, ranks: Ranks) -> Tensor:
    """Send each process its sites of a tensor, which only the first process has the values of."""
    if ranks.first:
        for number in range(1, ranks.world):
            with together():
                dist.send(_part(whole, axis, sites, ranks, number % ranks.site_ranks).contiguous(), number)
        return _part(whole, axis, sites, ranks, 0).contiguous()
    part = torch.empty_like(
        _part(whole, axis, sites, ranks, ranks.site), device="cpu", memory_format=torch.contiguous_format
    )
    with together():
        dist.recv(part, 0)
    return part


def _part(whole: Tensor, axis: int | None, sites: int, ranks: Ranks, site_rank: int) -> Tensor:
    """Cut the sites of a site rank out of a tensor."""
    own = ranks.own_sites(sites, site_rank)
    return whole if axis is None else whole.narrow(axis, own.start, own.stop - own.start)
