"""What two models share of the features of one crosscoder: decoder norms, cosines, and the check by latent scaling.

A is the first model of the crosscoder, B the second. Two definitions of relative norm are published, and the bands of
one are not those of the other: r = 0.3 is Delta = 0.79.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.crosscoder.model import CONFIG_FILE
from ontogeny.errors import UserError
from ontogeny.evaluation.encoding import load_dictionary
from ontogeny.evaluation.feature_table import read_features
from ontogeny.evaluation.geometry_tables import check_run
from ontogeny.evaluation.moments import Moments
from ontogeny.evaluation.probes import read_moments
from ontogeny.evaluation.tables import RunIdentity, read_identity
from ontogeny.files import write_csv

Doubles = NDArray[np.float64]

COLUMNS = (
    *RunIdentity._fields,
    "model_a",
    "model_b",
    "feature",
    "designated",
    "norm_a",
    "norm_b",
    "relative_norm",
    "norm_difference",
    "cosine",
    "beta_error_a",
    "beta_error_b",
    "beta_reconstruction_a",
    "beta_reconstruction_b",
    "nu_error",
    "nu_reconstruction",
    "firings",
    "tokens",
)
"""Columns of the table: a row is a feature that fires on `firings` of `tokens` heldout rows."""


class LatentScales(NamedTuple):
    """What latent scaling finds at both sites (shape: [2, L] each)."""

    error: Tensor
    """beta for the reconstruction's error, the feature's own share added back."""
    reconstruction: Tensor
    """beta for the reconstruction."""


def relative_norm(norms_L2: Doubles) -> Doubles:
    """Compute r = n_B / (n_A + n_B): 0 where A alone has the feature, 1 where B alone (Lindsey et al. 2024).

    Returns:
        (shape: [L]), not-a-number for features without a decoder. Features with r from 0.3 to 0.7 are called shared.
    """
    with np.errstate(invalid="ignore"):
        ratio: Doubles = norms_L2[:, 1] / norms_L2.sum(axis=1)
    return ratio


def norm_difference(norms_L2: Doubles) -> Doubles:
    """Compute Delta = ((n_A - n_B) / max(n_A, n_B) + 1) / 2: 1 where A alone has the feature (Minder et al. 2025).

    Returns:
        (shape: [L]), not-a-number for features without a decoder. Features are A's own above 0.9, B's own below 0.1,
        and shared within 0.1 of 0.5.
    """
    with np.errstate(invalid="ignore"):
        difference: Doubles = ((norms_L2[:, 0] - norms_L2[:, 1]) / norms_L2.max(axis=1) + 1) / 2
    return difference


def latent_scales(moments: Moments, W_dec_L2D: Tensor) -> LatentScales:
    """Measure how much of each feature there is at each site, whatever the norm of its decoder there.

    Latent scaling (Minder et al. 2025, arXiv 2504.02922): beta = sum f <d, y> / (||d||^2 sum f^2), over rows,
    minimises sum ||y - beta f d||^2, where d is the feature's decoder of the model where its norm is largest. y is the
    error x_s - x_hat_s + f W_dec[s], which holds what a decoder that is too small leaves over (complete shrinkage), or
    the reconstruction x_hat_s - b_dec[s], which holds what other features write in its place (latent decoupling).

    Args:
        moments: sums over rows, of activations less the decoder bias.
        W_dec_L2D: decoders of the same features, on scaled activations (shape: [L, 2, D]).
    """
    W_dec_L2D = W_dec_L2D.double()
    norms_L2 = W_dec_L2D.norm(dim=2)
    d_LD = W_dec_L2D[torch.arange(len(norms_L2), device=norms_L2.device), norms_L2.argmax(1)]
    own_2DL = W_dec_L2D.permute(1, 2, 0) * moments.own_SL[:, None]
    along = [(d_LD.T * y_2DL).sum(1) for y_2DL in (moments.ef_SDL + own_2DL, moments.xf_SDL - moments.ef_SDL)]
    return LatentScales(*(y_2L / (norms_L2.amax(1).square() * moments.ff_L) for y_2L in along))


def write_model_diff(
    dictionary: Path, features: Path, activations: Path, shards: Sequence[str], out: Path
) -> dict[str, float]:
    """Compare two models by the features of a run that fire.

    Args:
        dictionary: folder of a run over two sites, one of each model.
        features: its `features.parquet`.
        activations: folder of all sites' shards.
        shards: names of the heldout shards.
        out: the CSV file, with `COLUMNS`; norms and betas are on scaled activations. nu is the beta of the model with
            the smaller norm over that of the other: around 0 where the feature is of one model alone.

    Returns:
        Rows that were read, and features.

    Raises:
        UserError: a file is missing or damaged, the two are of different runs, or the run has not two models.
    """
    identity, known, crosscoder = read_identity(dictionary), read_features(features), load_dictionary(dictionary)
    check_run(dictionary, features, identity, known)
    models = [site.model for site in crosscoder.sites]
    if len(models) != 2 or len(set(models)) != 2:
        raise UserError(f"{dictionary}: its sites are of {', '.join(models)}; expected one site of each of two models")
    chosen_L = known.table["feature"].to_numpy(np.int64)
    moments = read_moments(crosscoder, activations, shards, chosen_L, known.rows)
    W_dec_L2D = crosscoder.W_dec[torch.from_numpy(chosen_L).to(crosscoder.W_dec.device)]
    table = compared(W_dec_L2D, moments)
    designated = json.loads((dictionary / CONFIG_FILE).read_text()).get("shared_latents", 0)
    table = table.assign(feature=chosen_L, designated=chosen_L < designated, model_a=models[0], model_b=models[1])
    table = table.assign(**identity._asdict(), tokens=moments.rows)
    write_csv(out, table[list(COLUMNS)])
    return {"rows": moments.rows, "features": len(chosen_L)}


def compared(W_dec_L2D: Tensor, moments: Moments) -> pd.DataFrame:
    """Measure features, with those of `COLUMNS` that are numbers of a feature."""
    norms_L2 = W_dec_L2D.double().norm(dim=2)
    scales, smaller_1L = latent_scales(moments, W_dec_L2D), norms_L2.argmin(1)[None]
    columns: dict[str, Tensor] = {"norm_a": norms_L2[:, 0], "norm_b": norms_L2[:, 1]}
    cosine_L = torch.nn.functional.cosine_similarity(W_dec_L2D[:, 0].double(), W_dec_L2D[:, 1].double(), dim=1)
    # Rounding leaves 1 + 4e-16 where decoders are equal.
    columns["cosine"] = cosine_L.clamp(-1, 1)
    for name, beta_2L in scales._asdict().items():
        columns |= {f"beta_{name}_a": beta_2L[0], f"beta_{name}_b": beta_2L[1]}
        columns[f"nu_{name}"] = (beta_2L.gather(0, smaller_1L) / beta_2L.gather(0, 1 - smaller_1L))[0]
    columns["firings"] = moments.firings_L
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    norms = table[["norm_a", "norm_b"]].to_numpy()
    return table.assign(relative_norm=relative_norm(norms), norm_difference=norm_difference(norms))
