"""Tables of made-up sweeps of sizes, of layers and of planted features, and of made-up densities of features."""

from itertools import product
from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd

from ontogeny.densities import density_rows
from ontogeny.evaluation.tables import Measurement, RunIdentity, metrics_table


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


SIZES = (8, 16, 32, 64, 128, 256, 512)
COEFFICIENTS = tuple(float(f"{10 ** (e / 4):.3g}") for e in range(-8, 9))


def superposition(folder: Path, dictionary: str = "sae", seeds: tuple[int, ...] = (0,)) -> Path:
    """Write `superposition.csv` of a sweep with a ridge at coefficient 1; the largest dictionary has no larger one."""
    tables = []
    for latents, coefficient, seed in product(SIZES, COEFFICIENTS, seeds):
        ridge = np.exp(-(np.log10(coefficient) ** 2) / 0.4) * min(1.0, latents / 64) - 0.02 * seed
        values = {
            "planted_features": 64.0,
            "recovered_features": 0.95 * ridge,
            "mmcs_planted": 0.4 + 0.58 * ridge,
            "mmcs_learnt": 0.4 + 0.58 * ridge,
            "dead": 0.9 * float(coefficient > 20),
            "fvu": min(1.0, 0.01 * coefficient),
            "mse": 0.001 * coefficient,
            "l0": min(latents / 2, 4 / coefficient),
        }
        if latents < max(SIZES):
            values |= {"mmcs_larger": 0.3 + 0.6 * ridge, "mmcs_larger_firing": 0.3 + 0.6 * ridge, "found_larger": 5.0}
        run = RunIdentity(
            dictionary, f"latents{latents}-sparsity{coefficient:g}-seed{seed}", latents, coefficient, seed
        )
        measured = [Measurement(None, name, float(value), made_up.ROWS) for name, value in values.items()]
        tables.append(metrics_table(run, measured).assign(model="toy", hook=made_up.HOOK))
    path = folder / "metrics" / dictionary / "superposition.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(path, index=False)
    return path


def sizes_and_seeds(folder: Path) -> list[Path]:
    runs = [made_up.identity("crosscoder", k, seed, n) for k in (16, 64) for seed in (0, 1) for n in (2048, 24576)]
    return [made_up.reconstruction(folder, run, shift=0.002 * run.seed) for run in runs]
