"""Activations through a dictionary, a block of rows at a time."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ontogeny.activations.source import source_of
from ontogeny.command import progress
from ontogeny.crosscoder.active import weighted_rows
from ontogeny.crosscoder.model import Crosscoder, load_crosscoder
from ontogeny.errors import UserError
from ontogeny.sites import Site

LARGEST_BLOCK = 256
"""Rows encoded at once: their sums in float64 stay in the processor's cache."""

LARGEST_ENCODING = 2**27
"""Feature activations held at once, which decides where dictionaries are large."""

FEW = {"cpu": 1 / 8, "cuda": 0.006}
"""Share of a code up to which decoding goes over the entries that fire, by device. On a CPU a dense product costs the
same at 1/6; for CUDA it is calculated, as in training."""


class RawBlock(NamedTuple):
    """Some rows of a shard."""

    shard: str
    """Name of the shard."""
    start: int
    """Number of the first of the rows within the shard."""
    rows_hash: str
    """Hash of the shard's rows."""
    x: Tensor
    """Raw activations, (B, S, D)."""


class Block(NamedTuple):
    """Some rows of a shard, and what the dictionary says of them."""

    shard: str
    """Name of the shard."""
    start: int
    """Number of the first of the rows within the shard."""
    rows_hash: str
    """Hash of the shard's rows."""
    x: Tensor
    """Raw activations, (B, S, D)."""
    f: Tensor
    """Feature activations, (B, L), or (B, S, L) under gate `site`."""


def load_dictionary(folder: Path) -> Crosscoder:
    """Load a run to be applied, on the GPU if there is one.

    Raises:
        UserError: the folder holds no finished run.
    """
    return load_crosscoder(folder).to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)


def sites_of_model(crosscoder: Crosscoder, model: str, dictionary: Path) -> list[Site]:
    """List the sites of a dictionary that are of one model.

    Raises:
        UserError: there is none; `dictionary` is the folder that the message names.
    """
    sites = [site for site in crosscoder.sites if site.model == model]
    if not sites:
        names = ", ".join(sorted({site.model for site in crosscoder.sites}))
        raise UserError(f"{dictionary}: there is no site of a model {model!r}; models of this dictionary are {names}")
    return sites


def encoded_blocks(
    crosscoder: Crosscoder, activations: Path, shards: Sequence[str], rows: int | None = None
) -> Iterator[Block]:
    """Encode rows of `shards` in stored order, each shard once every byte of it has been verified.

    Args:
        crosscoder: the dictionary, which knows its sites.
        activations: folder of the shards of all sites.
        shards: names of shards, such as `heldout-00000`.
        rows: how many, rounded up to whole blocks, of shards whose other bytes are neither read nor verified; all of
            them if left out.

    Raises:
        UserError: a shard is missing, damaged, or of other rows than that of another site.
    """
    starts = np.cumsum([0, *source_of(activations, crosscoder.sites, shards).rows()])
    total, done = int(starts[-1] if rows is None else min(rows, starts[-1])), 0
    needed = shards[: int(np.searchsorted(starts, total))]
    for block in progress(
        read_blocks(crosscoder, activations, needed, rows is None), total, "rows", lambda block: len(block.x)
    ):
        yield Block(*block, crosscoder.encode(block.x))
        done += len(block.x)
        if done >= total:
            return


def reconstruct(crosscoder: Crosscoder, x_BSD: Tensor) -> Tensor:
    """Replace raw activations, (B, S, D), by what the dictionary makes of them, in raw units and where they are."""
    device = crosscoder.W_dec.device
    blocks = (block_BSD.to(device) for block_BSD in torch.split(x_BSD, _block_rows(crosscoder)))
    return torch.cat([decode(crosscoder, crosscoder.encode(block_BSD)).to(x_BSD.device) for block_BSD in blocks])


def sparse_code(crosscoder: Crosscoder, x_BSD: Tensor) -> Tensor:
    """Encode raw activations, (B, S, D), and keep what fires alone: sparse, (B, L), or (B, S, L) under gate `site`."""
    device = crosscoder.W_dec.device
    blocks = (block_BSD.to(device) for block_BSD in torch.split(x_BSD, _block_rows(crosscoder)))
    return torch.cat([crosscoder.encode(block_BSD).to_sparse().to(x_BSD.device) for block_BSD in blocks])


def decode(crosscoder: Crosscoder, f: Tensor) -> Tensor:
    """Compute `crosscoder.decode(f)`, over the entries that fire alone where those are few.

    Args:
        crosscoder: the dictionary.
        f: what it encoded, (B, L), or (B, S, L) under gate `site`, which is decoded densely.

    Returns:
        Raw activations, (B, S, D), the same as from the dense product but for rounding.
    """
    if f.ndim == 3 or f.count_nonzero() > FEW[f.device.type] * f.numel():
        return crosscoder.decode(f)
    row_N, latent_N = f.nonzero(as_tuple=True)
    starts = torch.searchsorted(row_N, torch.arange(len(f) + 1, device=f.device))
    scaled_BV = weighted_rows(crosscoder.W_dec.flatten(1), latent_N, starts, f[row_N, latent_N])
    return crosscoder.unscaled(scaled_BV.view(len(f), *crosscoder.b_dec.shape) + crosscoder.b_dec)


def read_blocks(crosscoder: Crosscoder, activations: Path, shards: Sequence[str], verify: bool) -> Iterator[RawBlock]:
    """Read the rows of `shards` in stored order, onto the device of the dictionary.

    Args:
        crosscoder: the dictionary, which knows its sites.
        activations: folder of the shards of all sites.
        shards: names of shards, such as `heldout-00000`.
        verify: read every byte of a shard before its first row is used.

    Raises:
        UserError: a shard is missing, damaged, or of other rows than that of another site.
    """
    size = _block_rows(crosscoder)
    with closing(source_of(activations, crosscoder.sites, shards)) as source:
        open_number = source.opener([[number] for number in range(len(shards))], verify)
        for number, shard in enumerate(shards):
            aligned = open_number(number)
            for start in range(0, aligned.rows, size):
                x_BSD = torch.from_numpy(aligned.read(start, min(start + size, aligned.rows)))
                yield RawBlock(shard, start, aligned.rows_hash, x_BSD.to(crosscoder.W_dec.device))


def _block_rows(crosscoder: Crosscoder) -> int:
    gates = len(crosscoder.sites) if crosscoder.gate == "site" else 1
    return max(1, min(LARGEST_BLOCK, LARGEST_ENCODING // (gates * crosscoder.latents)))
