"""What each site adds to the pre-activations of features, at every token of a sample.

h_i = b_i + sum_s r_s with r_s = W_enc[s, :, i] . x_s: the reading r_s says where a feature is read, checkpoint by
checkpoint, while its activation is one for all of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.crosscoder.active import active_entries, inner_products
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.encoding import read_blocks
from ontogeny.evaluation.sparse import disk_array
from ontogeny.evaluation.text_windows import Covering, RowIndex, Windows

UNREAD = -128
"""Stands for a token that was not read."""

LARGEST = 127
"""Magnitude of the largest reading of a sample, in units of its scale."""


@torch.inference_mode()
def read_readings(
    crosscoder: Crosscoder,
    activations: Path,
    shards: Sequence[str],
    index: RowIndex,
    windows: Windows,
    latent_M: NDArray[np.integer],
    folder: Path,
) -> NDArray[np.float32]:
    """Read the shards once more, and keep the readings of samples on disk, in a file that vanishes with the process.

    Args:
        crosscoder: the dictionary.
        activations: folder of the shards of all sites.
        shards: names of the shards whose rows `index` holds, in its order.
        index: the rows.
        windows: windows of the samples.
        latent_M: latent of each sample.
        folder: a folder with room for 4 bytes for each token and site.

    Returns:
        Readings of all tokens of all windows, 0 where there is no row (shape: [N, S]).

    Raises:
        UserError: a shard is missing or damaged.
        OSError: the disk has no room.
    """
    kept_NS = disk_array(folder, np.float32, (int(windows.ends[-1]), len(crosscoder.sites)))
    covering = Covering(windows, index)
    first = 0
    for block in read_blocks(crosscoder, activations, shards, verify=False):
        rows = slice(first, first + len(block.x))
        row, sample = covering(index.place[rows])
        x_BSD = crosscoder.scaled(block.x)
        pairs = (torch.from_numpy(numbers).to(x_BSD.device) for numbers in (row, latent_M[sample]))
        token = windows.ends[sample] + index.position[rows][row] - windows.start[sample]
        kept_NS[token] = readings(crosscoder.W_enc_LSD, x_BSD, *pairs).cpu().numpy()
        first += len(block.x)
    return kept_NS


def readings(W_enc_LSD: Tensor, x_BSD: Tensor, row_N: Tensor, latent_N: Tensor) -> Tensor:
    """Multiply what the encoder holds of a latent by the activations of a row, site by site.

    Args:
        W_enc_LSD: encoder.
        x_BSD: scaled activations.
        row_N: row of each pair; pairs may be there more than once.
        latent_N: its latent.

    Returns:
        (shape: [N, S]). Equal to `(W_enc_LSD[latent_N] * x_BSD[row_N]).sum(2)`, but without a copy of the encoder for
        each pair.
    """
    wanted_BL = torch.zeros(len(x_BSD), len(W_enc_LSD), dtype=torch.bool, device=x_BSD.device)
    wanted_BL[row_N, latent_N] = True
    entries = active_entries(wanted_BL)
    sites = range(x_BSD.shape[1])
    found_ES = torch.stack([inner_products(x_BSD[:, s], W_enc_LSD[:, s], entries) for s in sites], dim=1)
    return found_ES[torch.searchsorted(entries.flat_N, row_N * len(W_enc_LSD) + latent_N)]


def quantised(
    reading_NS: NDArray[np.float32], unread_N: NDArray[np.bool_], windows: Windows
) -> tuple[pa.BinaryArray, NDArray[np.float32]]:
    """Round the readings of each sample to whole multiples of its largest over 127.

    Args:
        reading_NS: readings of all tokens of the windows.
        unread_N: tokens that were not read.
        windows: windows of the samples, M.

    Returns:
        For each sample its sites one after the other, an int8 for each token, `UNREAD` where it was not read; and the
        scales that give the readings back (shape: [M]).
    """
    window_N, _ = windows.tokens()
    tokens_M, sites = np.diff(windows.ends), reading_NS.shape[1]
    largest_M = np.maximum.reduceat(np.abs(reading_NS).max(1), windows.ends[:-1])
    scale_M = (largest_M / LARGEST).astype(np.float32)
    step_N1 = np.where(scale_M > 0, scale_M, 1)[window_N, None]
    rounded_NS = np.rint(reading_NS / step_N1).clip(-LARGEST, LARGEST).astype(np.int8)
    rounded_NS[unread_N] = UNREAD
    within_N = np.arange(len(window_N)) - windows.ends[window_N]
    place_NS = (windows.ends[window_N] * sites + within_N)[:, None] + tokens_M[window_N, None] * np.arange(sites)
    laid = np.empty(rounded_NS.size, np.int8)
    laid[place_NS] = rounded_NS
    offsets = pa.py_buffer((windows.ends * sites).astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), len(scale_M), [None, offsets, pa.py_buffer(laid)]), scale_M
