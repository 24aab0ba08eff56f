"""Planted activations: sums of known features, in shards like those of a language model.

The rows are those of the toy models of superposition of Sharkey, Braun and Millidge (2022): few of many features are
active at a time. Every draw depends on (seed, shard, block of rows) alone, so that any shard can be made by itself, and
row r of a shard is the same event at every checkpoint and hook: the same features at the same strengths.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ontogeny.activations.planted_features import Doubles, planted_directions, planted_features
from ontogeny.activations.rows import read_rows
from ontogeny.activations.store import Floats, write_shard
from ontogeny.command import progress
from ontogeny.config.models import PlantedModel
from ontogeny.errors import UserError
from ontogeny.provenance import provenance
from ontogeny.randomness import generator
from ontogeny.sites import Site

BLOCK_ROWS = 1024
"""Rows that are drawn together, always all of them: a short shard begins like a long one."""

JITTER = 1.001
"""What makes a symmetric matrix positive definite: its smallest eigenvalue is subtracted so many times."""


def planted_strengths(settings: PlantedModel, shard: str, rows: int) -> Iterator[Doubles]:
    """Draw which features are active on the rows of a shard, and how strongly.

    Uncorrelated, feature i is active with its probability p_i. Correlated, it is so with 2 p_i Phi(z_i) on a row with
    z ~ N(0, C) (see `correlation_factor`), which is p_i on average. So the mean number of active features is what the
    settings say in both. Rows without any stay empty: to put a feature there would raise that mean, and a row of
    zeros is no harm to a dictionary. A strength is one draw from the uniform law on (0, 1).

    Args:
        settings: the model.
        shard: name of the shard, such as `train-00000`.
        rows: rows of the shard.

    Yields:
        Strengths of a block of rows, 0 for features that are not active (shape: [rows of the block, G]).
    """
    probability_G = planted_features(settings).probability
    factor_GG = correlation_factor(settings) if settings.correlated else None
    shape = (BLOCK_ROWS, settings.features)
    for block in range(-(-rows // BLOCK_ROWS)):
        random = generator(settings.seed, "strengths", shard, block)
        active_BG, strength_BG = random.random((2, *shape))
        likely_BG = np.broadcast_to(probability_G, shape)
        if factor_GG is not None:
            z_BG = random.standard_normal(shape) @ factor_GG.T
            likely_BG = 2 * probability_G * torch.special.ndtr(torch.from_numpy(z_BG)).numpy()
        strength_BG[active_BG >= likely_BG] = 0
        yield strength_BG[: rows - block * BLOCK_ROWS]


def correlation_factor(settings: PlantedModel) -> Doubles:
    """Draw the covariance C of correlated features and return a factor F with F F^T = C (shape: [G, G]).

    C has covariances uniform on (0, 1), symmetrised; what is added to its diagonal makes it positive definite. So
    variances are about sqrt(G) / 2.5, correlations positive and weak, and features share one common cause.
    """
    uniform_GG = generator(settings.seed, "covariance").random((settings.features, settings.features))
    C_GG = (uniform_GG + uniform_GG.T) / 2
    C_GG -= min(JITTER * np.linalg.eigvalsh(C_GG)[0], -1e-3) * np.eye(settings.features)
    return np.asarray(np.linalg.cholesky(C_GG))


def planted_activations(settings: PlantedModel, site: Site, shard: str, rows: int) -> Floats:
    """Make the activations of one site on the rows of a shard: x = sum_i strength_i direction_i + noise.

    Args:
        settings: the model.
        site: one of its checkpoints, at any hook.
        shard: name of the shard, such as `train-00000`.
        rows: rows of the shard.

    Returns:
        Activations (shape: [rows, d_model], float32; sums are float64).

    Raises:
        UserError: the model has no such checkpoint.
    """
    if site.step not in settings.checkpoints:
        steps = ", ".join(map(str, settings.checkpoints))
        raise UserError(f"models.{site.model}.checkpoints: there is no step {site.step}; steps are {steps}")
    directions_GD = planted_directions(settings, site.hook)[:, settings.checkpoints.index(site.step)]
    activations_BD = np.empty((rows, settings.d_model), np.float32)
    blocks = progress(planted_strengths(settings, shard, rows), rows, "rows", len)
    for block, strength_BG in enumerate(blocks):
        x_BD = strength_BG @ directions_GD
        if settings.noise:
            random = generator(settings.seed, "noise", site.step, site.hook, shard, block)
            x_BD += settings.noise * random.standard_normal((BLOCK_ROWS, settings.d_model))[: len(x_BD)]
        activations_BD[block * BLOCK_ROWS :][: len(x_BD)] = x_BD
    return activations_BD


def write_planted(
    settings: PlantedModel, site: Site, rows_path: Path, dtype: str, out: Path, study: Path | None
) -> dict[str, float]:
    """Write one shard of one site of a planted model, in the format of shards that were read from a language model.

    Args:
        settings: the model.
        site: where the shard belongs.
        rows_path: the rows; its name is the shard's. How many there are counts here, not which tokens they are.
        dtype: type on disk, `float16` or `int8`.
        out: `activations/<model>/step<k>/<hook>/<shard>.h5`.
        study: the study's `study.json`, or None.

    Returns:
        Counts for the cost line: rows.

    Raises:
        UserError: the model has no such checkpoint, the rows are damaged, or the disk is full.
    """
    rows = read_rows(rows_path)
    activations_BD = planted_activations(settings, site, rows_path.stem, len(rows.context))
    write_shard(out, activations_BD, site, rows.hash, dtype, provenance(study))
    return {"rows": float(len(activations_BD))}
