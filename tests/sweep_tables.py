"""Tables of a made-up sweep of sizes at several layers, and of made-up densities of features."""

from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd

from ontogeny.densities import density_rows


def sweep(
    folder: Path, layers: int = 6, sizes: tuple[int, ...] = (128, 512), ks: tuple[int, ...] = (4, 16, 64)
) -> list[Path]:
    """Write `reconstruction.csv` of every run; larger dictionaries explain more."""
    return [
        made_up.reconstruction(
            folder, made_up.identity(f"block-{layer}", k, latents=size), made_up.LAYERS[layer : layer + 1], size / 2000
        )
        for layer in range(layers)
        for size in sizes
        for k in ks
    ]


def density(folder: Path, resamplings: int = 4, latents: int = 4096) -> Path:
    """Write `density.csv` of a run in which half of what is dead comes back at each resampling."""
    random, rows = np.random.default_rng(0), 32768
    exponents = random.normal(-2.5, 0.6, latents).clip(-4.4, -0.1)
    table, alive = [], 0.3
    for step in range(32, 513, 32):
        moments = ("before", "after") if resamplings and step % 96 == 0 and step <= 96 * resamplings else ("training",)
        for moment in moments:
            alive = 1 - (1 - alive) / 2 if moment == "after" else alive
            firings_L = (rows * 10**exponents).astype(np.int64)
            firings_L[int(alive * latents) :] = 0
            table += density_rows(firings_L, rows, step, moment)
    file = folder / "dictionaries/sae/latents4096-sparsity4-seed0/density.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(file, index=False)
    return file
