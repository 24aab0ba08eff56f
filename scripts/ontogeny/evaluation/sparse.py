"""Every firing of every latent, on disk, found again by row and latent."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class SparseActivations:
    """Non-zero activations in temporary files that vanish with the process: 12 bytes each.

    They come sorted by row and latent, so that a key of both is found by bisection in a memory map.
    """

    def __init__(self, latents: int, folder: Path) -> None:
        """Open the files.

        Args:
            latents: L, the number of latents.
            folder: a folder with room for 12 bytes times L0 times rows.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._latents = latents
        self._keys = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this object
        self._values = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._count = 0

    def add(self, row: NDArray[np.integer], latent: NDArray[np.integer], activation: NDArray[np.float32]) -> None:
        """Add firings, (N,) each, sorted by row and latent and after all earlier ones."""
        key = row.astype(np.int64) * self._latents + latent
        self._keys.write(key.tobytes())
        self._values.write(activation.astype(np.float32).tobytes())
        self._count += len(key)

    def at(self, row: NDArray[np.integer], latent: NDArray[np.integer]) -> NDArray[np.float32]:
        """Look up activations at pairs of row and latent, (N,); 0 where a latent is silent."""
        if not self._count:
            return np.zeros(len(row), np.float32)
        for file in (self._keys, self._values):
            file.flush()
        keys = np.memmap(self._keys, np.int64, "r", shape=(self._count,))
        values = np.memmap(self._values, np.float32, "r", shape=(self._count,))
        key = row.astype(np.int64) * self._latents + latent
        place = np.minimum(np.searchsorted(keys, key), self._count - 1)
        return np.where(keys[place] == key, values[place], np.float32(0))
