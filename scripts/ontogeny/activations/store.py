"""Shards: the activations of one site at fixed rows, in one HDF5 file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ontogeny.errors import UserError
from ontogeny.hdf5 import MEND, Arrays, open_arrays, write_arrays
from ontogeny.sites import Site

Floats = NDArray[np.float32]

LARGEST = {"float16": float(np.finfo(np.float16).max), "int8": float(np.finfo(np.float32).max) / 2}
"""Largest magnitude that each type on disk can keep: 65504 for `float16`."""

BLOCK_ROWS = 512
"""Rows that are worked on at a time: few enough to stay in the cache of a processor."""


def write_shard(
    path: Path, activations_BD: Floats, site: Site, rows_hash: str, dtype: str, provenance: Mapping[str, str]
) -> None:
    """Write the activations of one site as one shard.

    Args:
        path: `activations/<model>/step<k>/<hook>/<shard>.h5`.
        activations_BD: activations in stored order (shape: [rows, d_model], float32).
        site: where they were read.
        rows_hash: hash of the rows, as in the rows file.
        dtype: type on disk, `float16` or `int8` (see `encode`).
        provenance: what made the shard, as flat text.

    Raises:
        UserError: a value does not fit `dtype` or is not finite (names site, row and value), or the disk is full.
    """
    attributes = {**site._asdict(), "dtype": dtype, "rows_hash": rows_hash, "provenance": json.dumps(dict(provenance))}
    write_arrays(path, shard_arrays(path, activations_BD, site, dtype), attributes)


def shard_arrays(path: Path, activations_BD: Floats, site: Site, dtype: str) -> dict[str, NDArray[Any]]:
    """Turn activations into the arrays of a shard, rounded to its type.

    Args:
        path: the shard, which the message names.
        activations_BD: activations in stored order (shape: [rows, d_model], float32).
        site: where they were read.
        dtype: type on disk, `float16` or `int8` (see `encode`).

    Raises:
        UserError: a value does not fit `dtype` or is not finite (names site, row and value).
    """
    largest = LARGEST[dtype]
    row = _unfit_row(activations_BD, largest)
    if row is not None:
        channel = int(np.argmin(np.abs(activations_BD[row]) <= largest))
        value = float(activations_BD[row, channel])
        fits = np.isfinite(value) and abs(value) <= LARGEST["int8"]
        cure = "activations.dtype to int8" if fits else "activations.precision to float32"
        raise UserError(
            f"{path}: {site.hook} of {site.checkpoint} is {value:g} at row {row}, channel {channel}; "
            f"{dtype} keeps finite values up to {largest:g}: set {cure}"
        )
    return {"activations": _half(activations_BD)} if dtype == "float16" else encode(activations_BD)


def encode(activations_BD: Floats) -> dict[str, NDArray[Any]]:
    """Quantise to int8 with a scale per row after subtracting the mean per channel.

    x is kept as q s_r + mean with q = round((x - mean) / s_r) and s_r = max_d |x - mean| / 127, so that an error is
    at most s_r / 2 and constant outlier channels of a residual stream cost nothing.

    Args:
        activations_BD: finite activations (shape: [rows, d_model], float32).

    Returns:
        `activations` (int8 [rows, d_model]), `scale` (float32 [rows]) and `mean` (float32 [d_model]).
    """
    mean_D = activations_BD.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale_B = np.empty(len(activations_BD), np.float32)
    quantised_BD = np.empty(activations_BD.shape, np.int8)
    for start in range(0, len(activations_BD), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        residual_BD = activations_BD[block] - mean_D
        scale_B[block] = np.abs(residual_BD).max(axis=1) / np.float32(127)
        steps_BD = residual_BD / np.where(scale_B[block] > 0, scale_B[block], np.float32(1))[:, None]
        quantised_BD[block] = np.clip(np.rint(steps_BD), -127, 127)
    return {"activations": quantised_BD, "scale": scale_B, "mean": mean_D}


@dataclass(frozen=True)
class Shard:
    """An open shard; its values stay on disk until they are read."""

    path: Path
    """The file."""
    site: Site
    """Where the activations were read."""
    rows: int
    """Rows of the shard."""
    d_model: int
    """Channels of the site."""
    rows_hash: str
    """Hash of the rows."""
    stored: Arrays
    """The open file."""

    def read(self, start: int, stop: int) -> Floats:
        """Read rows `start` to `stop` (shape: [stop - start, d_model], float32).

        Raises:
            IndexError: the rows are none, or not all in the shard.
        """
        block_BD = np.empty((max(stop - start, 0), self.d_model), np.float32)
        self.read_into(start, stop, block_BD)
        return block_BD

    def read_into(self, start: int, stop: int, out_BD: Floats) -> None:
        """Read rows `start` to `stop` into `out_BD` (shape: [stop - start, d_model], float32, any strides)."""
        if not 0 <= start < stop <= self.rows:
            raise IndexError(f"{self.path}: there are no rows {start} to {stop} in a shard of {self.rows}")
        arrays = self.stored.arrays
        out = torch.from_numpy(out_BD)
        out.copy_(torch.from_numpy(np.array(arrays["activations"][start:stop])))
        if "scale" in arrays:
            out.mul_(torch.from_numpy(np.array(arrays["scale"][start:stop]))[:, None])
            out.add_(torch.from_numpy(np.array(arrays["mean"])))

    def verify(self) -> None:
        """Read every byte once.

        Raises:
            UserError: bytes have changed since they were written, or a value is not finite (names the row).
        """
        self.stored.verify()
        arrays = self.stored.arrays
        floats = arrays["scale" if "scale" in arrays else "activations"]
        row = _unfit_row(floats, float(np.finfo(floats.dtype).max))
        if row is not None:
            raise UserError(f"{self.path}: row {row} is not finite; {MEND}")


def open_shard(path: Path, verify: bool = False) -> Shard:
    """Open a shard as a memory map (one file descriptor while it is in use).

    Args:
        path: the shard.
        verify: read every byte once and refuse changed or non-finite ones (`Shard.verify`).

    Raises:
        UserError: one line for a file that is missing, cut short, no shard, or fails `verify`.
    """
    attributes = ("model", "step", "hook", "dtype", "rows_hash", "crc32")
    stored = open_arrays(path, {"activations": ("float16", "int8")}, attributes)
    found = stored.attributes
    if found["dtype"] == "int8":
        types = {"activations": ("int8",), "scale": ("float32",), "mean": ("float32",)}
        stored = open_arrays(path, types, attributes)
    shape = stored.arrays["activations"].shape
    expected = {"activations": shape, "scale": shape[:1], "mean": shape[1:]}
    shapes = {name: array.shape for name, array in stored.arrays.items()}
    if len(shape) != 2 or shapes != {name: expected[name] for name in shapes}:
        raise UserError(f"{path}: shapes {shapes} are not those of rows and channels; {MEND}")
    site = Site(str(found["model"]), int(found["step"]), str(found["hook"]))
    shard = Shard(path, site, shape[0], shape[1], str(found["rows_hash"]), stored)
    if verify:
        shard.verify()
    return shard


def verify_shard(path: Path) -> None:
    """Refuse a shard that is cut short, changed or not finite (UserError naming the file, and the row if one is)."""
    open_shard(path, verify=True)


class AlignedShard(NamedTuple):
    """The shards of several sites over the same rows."""

    shards: tuple[Shard, ...]
    """One shard a site, in the order of the sites."""
    rows: int
    """Rows of each."""
    d_model: int
    """Channels of each."""
    rows_hash: str
    """Hash of the rows."""

    def read(self, start: int, stop: int) -> Floats:
        """Read rows `start` to `stop` of every site (shape: [stop - start, sites, d_model], float32).

        Raises:
            IndexError: the rows are none, or not all in the shard.
        """
        block_BSD = np.empty((max(stop - start, 0), len(self.shards), self.d_model), np.float32)
        self.read_into(start, stop, block_BSD)
        return block_BSD

    def read_into(self, start: int, stop: int, out_BSD: Floats) -> None:
        """Read rows `start` to `stop` into `out_BSD` (shape: [stop - start, sites, d_model], float32)."""
        for number, shard in enumerate(self.shards):
            shard.read_into(start, stop, out_BSD[:, number])


def open_aligned(folder: Path, sites: Sequence[Site], shard: str, verify: bool = False) -> AlignedShard:
    """Open the shard of this name at every site.

    Args:
        folder: the study's `activations/`.
        sites: the site axis, in order.
        shard: name such as `train-00000`.
        verify: read every byte once (`Shard.verify`).

    Raises:
        UserError: a shard is refused by `open_shard`, holds another site, or does not fit the others (`align`).
    """
    shards = [open_shard(folder / site.key / f"{shard}.h5", verify) for site in sites]
    for site, opened in zip(sites, shards, strict=True):
        if opened.site != site:
            raise UserError(f"{opened.path}: it holds {opened.site.key}, not {site.key}; {MEND}")
    return align(shards)


def align(shards: Sequence[Shard]) -> AlignedShard:
    """Put the shards of several sites beside each other.

    Raises:
        UserError: one disagrees with the first one about the rows, their count or the channels (names both files).
    """
    first = shards[0]
    for other in shards:
        for what in ("rows", "d_model", "rows_hash"):
            found, expected = getattr(other, what), getattr(first, what)
            if found != expected:
                raise UserError(
                    f"{other.path}: {what} is {found}, but {expected} in {first.path}; sites of one dictionary share "
                    "both rows and width: delete the shard that is out of date and run again"
                )
    return AlignedShard(tuple(shards), first.rows, first.d_model, first.rows_hash)


def _half(values: Floats) -> NDArray[np.float16]:
    half: NDArray[np.float16] = torch.from_numpy(values).half().numpy()
    return half


def _single(values: NDArray[Any]) -> Floats:
    """Convert as torch does: from float16 eight times faster than numpy."""
    single: Floats = torch.from_numpy(np.array(values)).float().numpy()
    return single


def _unfit_row(values: NDArray[Any], largest: float) -> int | None:
    """Find the first row that holds NaN, an infinity or a magnitude above `largest`."""
    for start in range(0, len(values), BLOCK_ROWS):
        block = _single(values[start : start + BLOCK_ROWS])
        if not (block.max() <= largest and block.min() >= -largest):
            fits = (np.abs(block) <= largest).reshape(len(block), -1).all(axis=1)
            return start + int(np.argmin(fits))
    return None
