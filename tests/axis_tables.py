"""Made-up tables of studies over two models and over the layers of one."""

from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd

from ontogeny.evaluation.model_diff import COLUMNS, norm_difference, relative_norm
from ontogeny.evaluation.tables import Measurement, RunIdentity, metrics_table
from ontogeny.sites import Site

MODELS = (Site("base", 1000, made_up.HOOK), Site("tuned", 300, made_up.HOOK))
TOKENS = 16256


def model_diff(folder: Path, run: RunIdentity, alone: int = 40, features: int = 600, seed: int = 0) -> Path:
    """Write `model_diff.csv`: features of one model alone, a third of them by the norm only, and shared ones.

    A ninth of the first have a negative nu, and a shared one has equal decoders, whose cosine is rounded up.
    """
    random = np.random.default_rng(seed)
    norms_L2 = np.exp(random.normal(0, 0.15, (features, 2)))
    norms_L2[:alone, 0] *= 0.04
    norms_L2[alone : 2 * alone, 1] *= 0.04
    nu_L2 = np.abs(random.normal(0.9, 0.1, (features, 2)))
    nu_L2[: 2 * alone] = np.abs(random.normal(0.1, 0.1, (2 * alone, 2)))
    nu_L2[: 2 * alone : 3, 0] += 1.5
    nu_L2[1 : 2 * alone : 9, 1] = -0.8
    columns = {"feature": np.arange(features), "designated": False, "model_a": "base", "model_b": "tuned"}
    numbers = {"norm_a": norms_L2[:, 0], "norm_b": norms_L2[:, 1], "cosine": random.uniform(0.2, 1, features)}
    numbers["cosine"][-1] = 1 + 4e-16
    scales = {f"beta_{kind}_{model}": 1.0 for kind in ("error", "reconstruction") for model in "ab"}
    ratios = {"nu_error": nu_L2[:, 0], "nu_reconstruction": nu_L2[:, 1], "firings": 300, "tokens": made_up.ROWS}
    relative = {"relative_norm": relative_norm(norms_L2), "norm_difference": norm_difference(norms_L2)}
    table = pd.DataFrame({**columns, **numbers, **scales, **ratios, **relative}).assign(**run._asdict())
    file = folder / "metrics" / run.dictionary / run.run / "model_diff.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table[list(COLUMNS)].to_csv(file, index=False)
    return file


def losses(folder: Path, run: RunIdentity, sites: tuple[Site, ...], error: float = 0.1) -> list[Path]:
    """Write `nll-<model>.csv` of every model: a later site costs more."""
    files = []
    for model in dict.fromkeys(site.model for site in sites):
        measured = []
        for place, site in enumerate(sites):
            costs = {"clean": 0.0, "reconstructed": error * (1 + place), "mean_ablated": 2.5, "zero_ablated": 3.5}
            if site.model == model:
                measured += [Measurement(site, f"nll_{name}", 4 + cost, TOKENS) for name, cost in costs.items()]
                for name in ("mean", "zero"):
                    share = 1 - costs["reconstructed"] / costs[f"{name}_ablated"]
                    measured.append(Measurement(site, f"recovered_{name}", share, TOKENS))
        files.append(folder / "metrics" / run.dictionary / run.run / f"nll-{model}.csv")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        metrics_table(run, measured).to_csv(files[-1], index=False)
    return files


def two_models(folder: Path, *names: str) -> list[Path]:
    """Write the tables of dictionaries over two models."""
    files = []
    for number, name in enumerate(names or ("batchtopk", "l1", "l1-shared")):
        run = made_up.identity(name, 32)
        files += [model_diff(folder, run, 40 >> number, seed=number), *losses(folder, run, MODELS, 0.1 + 0.05 * number)]
    return files


def layers(folder: Path, count: int = 6, ks: tuple[int, ...] = (16, 32, 64), saes: int = 12) -> list[Path]:
    """Write the tables of a crosscoder over the layers of a model, and of an SAE at each of the first `saes`."""
    sites = made_up.LAYERS[:count]
    norms_LS = np.exp(-np.abs(np.random.default_rng(3).uniform(0, count, (300, 1)) - np.arange(count)) / 2)
    files = [made_up.features(folder, norms_LS, sites=sites)]
    for k in ks:
        run = made_up.identity("crosscoder", k)
        files += [made_up.reconstruction(folder, run, sites), *losses(folder, run, sites, 2 / k)]
        for place, site in enumerate(sites[:saes]):
            run = made_up.identity(f"sae-{place}", k // 2)
            # L0 differs between layers, as it does where a penalty decides it.
            measured = made_up.reconstruction(folder, run, (site,), gain=0.3, shift=0.004 * place)
            files += [measured, *losses(folder, run, (site,), 1 / k)]
    return files
