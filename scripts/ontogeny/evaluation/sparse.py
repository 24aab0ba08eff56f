"""Every firing of every latent, on disk: written row by row, read latent by latent."""

import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SORTED_AT_ONCE = 2**20
"""Firings that are put in their places together."""

ROW_BITS = 32
"""Bits of a key below the number of the latent; a row is numbered by them."""


class SparseActivations:
    """Non-zero activations in temporary files that vanish with the process: 12 bytes each."""

    def __init__(self, latents: int, folder: Path) -> None:
        """Open the files.

        Args:
            latents: L, the number of latents.
            folder: a folder with room for 24 bytes times L0 times rows: they are there twice while they are sorted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files = _temporary(folder), _temporary(folder)
        self._count_L = np.zeros(latents, np.int64)

    def add(self, row: NDArray[np.integer], latent: NDArray[np.integer], activation: NDArray[np.float32]) -> None:
        """Add firings, (N,) each, of rows after all earlier ones."""
        keys, values = self._files
        keys.write(_key(row, latent).tobytes())
        values.write(activation.astype(np.float32).tobytes())
        self._count_L += np.bincount(latent, minlength=len(self._count_L))

    def by_latent(self) -> "FiringsByLatent":
        """Sort all firings by latent, and by row within a latent, in memory that does not grow with their number.

        Raises:
            OSError: the disk has no room.
        """
        starts = np.concatenate([[0], np.cumsum(self._count_L)])
        total = int(starts[-1])
        for file in self._files:
            file.flush()
        read = [
            mapped(file, dtype, (total,), "r") for file, dtype in zip(self._files, (np.int64, np.float32), strict=True)
        ]
        keys, values = disk_array(self._folder, np.int64, (total,)), disk_array(self._folder, np.float32, (total,))
        next_L = starts[:-1].copy()
        for first in range(0, total, SORTED_AT_ONCE):
            key, value = (column[first : first + SORTED_AT_ONCE] for column in read)
            latent = key >> ROW_BITS
            order = np.argsort(latent, kind="stable")
            latent = latent[order]
            place = next_L[latent] + np.arange(len(latent)) - np.searchsorted(latent, latent)
            keys[place], values[place] = key[order], value[order]
            next_L += np.bincount(latent, minlength=len(next_L))
        return FiringsByLatent(keys, values, starts)


class FiringsByLatent:
    """All firings sorted by latent and row, so that a pair of both is found by bisection."""

    def __init__(self, keys: NDArray[np.int64], values: NDArray[np.float32], starts: NDArray[np.int64]) -> None:
        self._keys, self._values, self._starts = keys, values, starts
        self.latents = len(starts) - 1

    def of(self, latent: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Read the firings of one latent: rows, ascending, and activations, (N,) each."""
        own = slice(self._starts[latent], self._starts[latent + 1])
        return self._keys[own] & (2**ROW_BITS - 1), np.array(self._values[own])

    def at(self, row: NDArray[np.integer], latent: NDArray[np.integer]) -> NDArray[np.float32]:
        """Look up activations at pairs of row and latent, (N,); 0 where a latent is silent."""
        if not len(self._keys):
            return np.zeros(len(row), np.float32)
        key = _key(row, latent)
        place = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        return np.where(self._keys[place] == key, self._values[place], np.float32(0))


def disk_array(folder: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Make an array of zeros in a temporary file that vanishes with it.

    Raises:
        OSError: the disk has no room for all of it.
    """
    file = _temporary(folder)
    # A write to a map of a file that outgrows the disk would kill the process.
    os.posix_fallocate(file.fileno(), 0, max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize))
    return mapped(file, dtype, shape, "r+")


def mapped(file: IO[bytes], dtype: DTypeLike, shape: tuple[int, ...], mode: str) -> NDArray[Any]:
    """Map a file into memory; an empty array needs none of it."""
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype, mode, shape=shape)  # type: ignore[call-overload, no-any-return]


def _temporary(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)  # open as long as it is used


def _key(row: NDArray[np.integer], latent: NDArray[np.integer]) -> NDArray[np.int64]:
    return latent.astype(np.int64) << ROW_BITS | row
