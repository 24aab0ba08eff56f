"""Whether a feature is there where its decoder norm is small: linear probes and latent scaling at every site."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ontogeny.config.evaluation import ProbeSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.encoding import decode, encoded_blocks, load_dictionary
from ontogeny.evaluation.moments import Moments, latent_scale, probe_r2
from ontogeny.evaluation.tables import RunIdentity, read_identity
from ontogeny.files import write_csv
from ontogeny.randomness import generator
from ontogeny.sites import Site

COLUMNS = (*RunIdentity._fields, *Site._fields, "feature", "decoder_norm", "r2", "beta", "firings", "tokens")
"""Columns of the table: a row is a feature at a site, and `firings` of its `tokens` heldout rows are above 0."""


def write_probes(
    settings: ProbeSettings,
    dictionary: Path,
    features: Path,
    activations: Path,
    train: Sequence[str],
    heldout: Sequence[str],
    out: Path,
) -> dict[str, float]:
    """Probe a sample of the features of a run at every site, and write what was found.

    Args:
        settings: how many features, which of them, and how probes are fitted.
        dictionary: folder of the run.
        features: its `features.parquet`.
        activations: folder of all sites' shards.
        train: names of the training shards.
        heldout: names of the heldout shards.
        out: the CSV file, with `COLUMNS`; decoder norms and beta are on scaled activations.

    Returns:
        Rows that were read, and features that were probed.

    Raises:
        UserError: a shard is missing or damaged, or no feature fires often enough.
    """
    crosscoder = load_dictionary(dictionary)
    chosen_L = choose(_firings(features, settings.rows), settings, features)
    fitted, seen = (read_moments(crosscoder, activations, names, chosen_L, settings.rows) for names in (train, heldout))
    W_dec_LSD = crosscoder.W_dec[torch.from_numpy(chosen_L).to(crosscoder.W_dec.device)]
    columns = (W_dec_LSD.norm(dim=2).T, probe_r2(fitted, seen, settings.ridge), latent_scale(fitted, seen, W_dec_LSD))
    norm_SL, r2_SL, beta_SL = (values.double().cpu().numpy() for values in columns)
    rows = [
        (*read_identity(dictionary), *site, feature, norm_SL[s, i], r2_SL[s, i], beta_SL[s, i], firings, seen.rows)
        for i, (feature, firings) in enumerate(zip(chosen_L.tolist(), seen.firings_L.tolist(), strict=True))
        for s, site in enumerate(crosscoder.sites)
    ]
    write_csv(out, pd.DataFrame(rows, columns=list(COLUMNS)))
    return {"rows": fitted.rows + seen.rows, "features": len(chosen_L)}


def choose(firings_L: NDArray[np.int64], settings: ProbeSettings, file: Path) -> NDArray[np.int64]:
    """Choose features by chance from those that fire often enough, ascending.

    Args:
        firings_L: heldout rows on which each feature fires (shape: [L]).
        settings: how many, how often, and the seed.
        file: where the counts come from, for the error.

    Raises:
        UserError: no feature fires often enough.
    """
    often_L = np.flatnonzero(firings_L >= settings.firings)
    if not len(often_L):
        raise UserError(
            f"{file}: no feature fires on {settings.firings} heldout rows or more, the most frequent one on "
            f"{firings_L.max()}; lower evaluation.probes.firings or raise activations.heldout_rows"
        )
    order_L: NDArray[np.int64] = generator(settings.seed, "probes").permutation(often_L)
    return np.sort(order_L[: settings.features])


@torch.inference_mode()
def read_moments(
    crosscoder: Crosscoder, activations: Path, shards: Sequence[str], chosen_L: NDArray[np.int64], rows: int
) -> Moments:
    """Encode rows and add up what probes and latent scales are made of.

    Args:
        crosscoder: the dictionary.
        activations: folder of all sites' shards.
        shards: names of shards.
        chosen_L: features that are probed.
        rows: how many rows of the shards.
    """
    device = crosscoder.W_dec.device
    chosen = torch.from_numpy(chosen_L).to(device)
    moments = Moments(len(crosscoder.sites), crosscoder.d_model, len(chosen_L), device)
    for block in encoded_blocks(crosscoder, activations, shards, rows):
        x_BSD = crosscoder.scaled(block.x) - crosscoder.b_dec
        error_BSD = (block.x - decode(crosscoder, block.f)) * crosscoder.scales[:, None]
        moments.add(x_BSD, error_BSD, block.f[..., chosen])
    return moments


def _firings(features: Path, most: int) -> NDArray[np.int64]:
    """Read on about how many of the heldout rows that are read each feature fires."""
    table = pq.read_table(features, columns=["density"])
    rows = min(most, int(table.schema.metadata[b"rows"]))
    counts_L: NDArray[np.int64] = np.rint(table["density"].to_numpy() * rows).astype(np.int64)
    return counts_L
