"""How much of what was planted the runs of a sweep have found: one table for all of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.encoding import decode, encoded_blocks, load_dictionary
from ontogeny.evaluation.metrics import ActivityCounts, ReconstructionSums
from ontogeny.evaluation.recovery import planted_at_sites
from ontogeny.evaluation.tables import Measurement, RunIdentity, metrics_table, read_identity
from ontogeny.evaluation.truth import RECOVERED, cosines
from ontogeny.files import write_csv


class Measured(NamedTuple):
    """A run, and what was measured of it on heldout rows."""

    identity: RunIdentity
    decoder_LSD: NDArray[np.float32]
    """Decoders on scaled activations."""
    firing_L: NDArray[np.bool_]
    """Whether each latent fires on any heldout row."""
    planted_GSD: NDArray[np.float64]
    """Planted directions on scaled activations."""
    values: dict[str, float]
    """`mse`, `fvu`, `l0` and `dead`."""
    rows: int
    """Heldout rows."""


def write_superposition(
    folder: Path,
    runs: Sequence[str],
    model: str,
    hook: str,
    directions: Path,
    activations: Path,
    shards: Sequence[str],
    out: Path,
) -> dict[str, float]:
    """Measure every run of a sweep over planted features, and write one tidy table.

    Args:
        folder: folder of the dictionary.
        runs: names of its runs.
        model: the planted model of its sites.
        hook: the hook point of its sites.
        directions: planted directions at this hook.
        activations: folder of the shards of all sites.
        shards: names of the heldout shards.
        out: the CSV file.

    Returns:
        Counts for the cost line: runs, and rows that were encoded.

    Raises:
        UserError: a run, the directions or a shard are missing or damaged.
    """
    measured = [_measured(folder / run, model, hook, directions, activations, shards) for run in runs]
    tables = [
        metrics_table(
            run.identity, [Measurement(None, name, value, run.rows) for name, value in _values(run, larger).items()]
        )
        for run, larger in with_next_larger(measured)
    ]
    write_csv(out, pd.concat(tables, ignore_index=True).assign(model=model, hook=hook))
    return {"runs": float(len(runs)), "rows": float(sum(run.rows for run in measured))}


def _measured(
    folder: Path, model: str, hook: str, directions: Path, activations: Path, shards: Sequence[str]
) -> Measured:
    identity, crosscoder = read_identity(folder), load_dictionary(folder)
    _, planted_GSD = planted_at_sites(crosscoder, model, hook, directions)
    scaled_GSD = planted_GSD.astype(np.float64) * crosscoder.scales.cpu().numpy()[:, None]
    sums, counts = _sums(crosscoder, activations, shards)
    if not sums.spread_S.all():
        raise UserError(f"{activations}: all {sums.rows} heldout rows of a site are equal, so FVU is not defined")
    values = {
        "mse": float(sums.error_S.mean()) / (sums.rows * crosscoder.d_model),
        "fvu": sums.pooled_fvu(crosscoder.scales),
        "l0": float(counts.l0().mean()),
        "dead": counts.dead_share(),
    }
    firing_L = (counts.count_L > 0).cpu().numpy()
    return Measured(identity, crosscoder.W_dec.cpu().numpy(), firing_L, scaled_GSD, values, sums.rows)


@torch.inference_mode()
def _sums(
    crosscoder: Crosscoder, activations: Path, shards: Sequence[str]
) -> tuple[ReconstructionSums, ActivityCounts]:
    sites = len(crosscoder.sites)
    sums, counts = ReconstructionSums(sites, crosscoder.d_model), ActivityCounts(sites, crosscoder.latents)
    for block in encoded_blocks(crosscoder, activations, shards):
        sums.add(block.x, decode(crosscoder, block.f))
        counts.add(block.f)
    return sums, counts


def with_next_larger(measured: Sequence[Measured]) -> Iterator[tuple[Measured, Measured | None]]:
    """Pair each run with that of the next larger dictionary of the same sparsity and seed, None for the largest."""
    for run in measured:
        own = run.identity
        larger = [other for other in measured if other.identity.latents > own.latents and other.identity[3:] == own[3:]]
        yield run, min(larger, key=lambda other: other.identity.latents, default=None)


def _values(run: Measured, larger: Measured | None) -> dict[str, float]:
    """Put the metrics of a run together.

    Returns:
        `mse` (mean squared error of a channel, in raw units), `fvu`, `l0`, `dead`; the number of
        `planted_features`; of the latents that fire, `mmcs_planted` and `mmcs_learnt` (see
        `mean_max_cosine_similarity`) and `recovered_features`, the share of planted features whose cosine with one of
        them is above 0.9. With the next larger dictionary, `mmcs_larger`, the mean
        over latents of the highest cosine with one of its latents, those that never fire being among both, and
        `found_larger`, the number above 0.9; `mmcs_larger_firing` leaves out, in both, what never fires. What is a
        mean over nothing is left out.
    """
    values = {**run.values, "planted_features": float(len(run.planted_GSD)), "recovered_features": 0.0}
    learnt_LSD = run.decoder_LSD[run.firing_L]
    if len(learnt_LSD):
        cosines_LG = cosines(learnt_LSD, run.planted_GSD)
        best_G = cosines_LG.max(axis=0)
        values |= {"mmcs_planted": float(best_G.mean()), "mmcs_learnt": float(cosines_LG.max(axis=1).mean())}
        values["recovered_features"] = float((best_G > RECOVERED).mean())
    if larger is not None:
        best_L = cosines(run.decoder_LSD, larger.decoder_LSD).max(axis=1)
        values |= {"mmcs_larger": float(best_L.mean()), "found_larger": float((best_L > RECOVERED).sum())}
        if len(learnt_LSD) and larger.firing_L.any():
            best_L = cosines(learnt_LSD, larger.decoder_LSD[larger.firing_L]).max(axis=1)
            values["mmcs_larger_firing"] = float(best_L.mean())
    return values
