"""What each feature does: one table of features, and one of the heldout samples where they fire most."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.activations.rows import Rows, read_rows
from ontogeny.config.evaluation import FeatureSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.choosing import choose
from ontogeny.evaluation.emergence import ABSENT, emergence
from ontogeny.evaluation.encoding import encoded_blocks, load_dictionary
from ontogeny.evaluation.metrics import ActivityCounts
from ontogeny.evaluation.readings import read_readings
from ontogeny.evaluation.samples import SAMPLES_SCHEMA, sample_tables, token_texts
from ontogeny.evaluation.sparse import FiringsByLatent, SparseActivations
from ontogeny.evaluation.tables import read_identity
from ontogeny.evaluation.text_windows import RowIndex, windows
from ontogeny.files import atomic
from ontogeny.provenance import provenance
from ontogeny.sites import Site
from ontogeny.tokens import Tokens, read_tokens

BINS = 40
"""Bins of the histogram of a feature's activations."""


class Activity(NamedTuple):
    """How often and how strongly each latent fires."""

    counts: ActivityCounts
    """Rows on which it fires."""
    total: Tensor
    """Sum of its activations, (L,), float64."""
    largest: Tensor
    """Its strongest activation, (L,)."""
    firings: FiringsByLatent
    """Each of them, by the number of its row in all shards together."""


def write_features(
    settings: FeatureSettings,
    dictionary: Path,
    activations: Path,
    shards: Sequence[str],
    tokens: Path,
    tokenizer: Path,
    out: Path,
    study: Path | None,
) -> dict[str, float]:
    """Write `features.parquet` and `samples.parquet` of a run.

    Args:
        settings: samples, their window and tau.
        dictionary: folder of the run.
        activations: folder of the rows and of the shards of all sites.
        shards: names of the heldout shards.
        tokens: contexts of the heldout split.
        tokenizer: its `tokenizer.json`.
        out: folder of the two tables.
        study: the study's `study.json`, or None.

    Returns:
        Rows read, features described and samples kept.

    Raises:
        UserError: an input is missing or damaged, or shards, rows and tokens do not belong together.
    """
    crosscoder, contexts = load_dictionary(dictionary), read_tokens(tokens)
    texts = token_texts(tokenizer, contexts.vocab_size)
    rows = {shard: _rows_of(activations / "rows" / f"{shard}.h5", contexts, tokens) for shard in shards}
    metadata = _metadata(settings, dictionary, crosscoder.sites, sum(len(r.context) for r in rows.values()), study)
    with atomic(out / "features.parquet") as features, atomic(out / "samples.parquet") as samples:
        activity = read_activity(crosscoder, activations, rows, out)
        table = feature_table(crosscoder, activity, settings.emergence_threshold)
        pq.write_table(table.replace_schema_metadata(metadata), features)
        index = RowIndex(list(rows.values()))
        chosen = choose(activity.firings, index.place, index.context, settings)
        window = windows(index.context[chosen.row], index.position[chosen.row], contexts.length, settings.window)
        reading_NS = read_readings(crosscoder, activations, shards, index, window, chosen.latent, out)
        parts = sample_tables(chosen, window, contexts, texts, index, activity.firings, reading_NS)
        _write_samples(samples, parts, metadata)
    return {"rows": activity.counts.rows, "features": crosscoder.latents, "samples": len(chosen.rank)}


@torch.inference_mode()
def read_activity(crosscoder: Crosscoder, activations: Path, rows: dict[str, Rows], folder: Path) -> Activity:
    """Encode all heldout rows once; under gate `site` a feature is as active as at its most active site.

    Args:
        crosscoder: the dictionary.
        activations: folder of the shards of all sites.
        rows: the rows of each shard.
        folder: where firings are kept, in files that vanish with the process.

    Raises:
        UserError: a shard is missing or damaged, or holds other rows.
    """
    counts = ActivityCounts(len(crosscoder.sites), crosscoder.latents)
    stored = SparseActivations(crosscoder.latents, folder)
    sum_L = torch.zeros(crosscoder.latents, dtype=torch.float64)
    max_L = torch.zeros(crosscoder.latents)
    for block in encoded_blocks(crosscoder, activations, list(rows)):
        if block.rows_hash != rows[block.shard].hash:
            raise UserError(f"{activations}: shards {block.shard} and rows/{block.shard}.h5 differ; make them again")
        f_BL = block.f if block.f.ndim == 2 else block.f.amax(1)
        sum_L += f_BL.sum(0, dtype=torch.float64).cpu()
        max_L = torch.maximum(max_L, f_BL.amax(0).cpu())
        row, latent = (index.cpu().numpy() for index in f_BL.nonzero(as_tuple=True))
        stored.add(row + counts.rows, latent, f_BL[f_BL != 0].cpu().numpy())
        counts.add(block.f)
    return Activity(counts, sum_L, max_L, stored.by_latent())


def feature_table(crosscoder: Crosscoder, activity: Activity, threshold: float) -> pa.Table:
    """Lay out what is known of every latent, one row each.

    `mean_activation` is that of the rows where the latent fires, 0 for dead ones. `histogram` counts these rows in
    `BINS` parts of the range from 0 to `max_activation`, each with its upper end. `class` and what speaks of a peak
    or of emergence are null for latents without a decoder (all norms 0). Columns of steps are those of the site.
    """
    norms_LS = crosscoder.decoder_norms().double().cpu().numpy()
    when = emergence(norms_LS, threshold)
    steps_S = np.array([site.step for site in crosscoder.sites])
    count_L = activity.counts.count_L
    absent = when.peak == ABSENT
    columns = {
        "feature": pa.array(np.arange(crosscoder.latents, dtype=np.int32)),
        "density": pa.array(activity.counts.density().numpy()),
        "mean_activation": pa.array((activity.total / count_L.clamp_min(1)).numpy()),
        "max_activation": pa.array(activity.largest.double().numpy()),
        "histogram": _lists(np.stack([histogram(activity.firings.of(n)[1]) for n in range(crosscoder.latents)])),
        "decoder_norm": _lists(norms_LS),
        "normalised_norm": _lists(when.normalised),
        "peak_site": pa.array(when.peak.astype(np.int32), mask=absent),
        "peak_step": pa.array(steps_S[when.peak], mask=absent),
        "emergence_site": pa.array(when.first.astype(np.int32), mask=absent),
        "emergence_step": pa.array(steps_S[when.first], mask=absent),
        "initialisation": pa.array(when.initialisation),
        "persistence": pa.array(when.persistence),
        "class": pa.array(np.where(when.initialisation, "initialisation", "emergent"), mask=absent),
        "dead": pa.array((count_L == 0).numpy()),
    }
    return pa.table(columns)


def histogram(activation_N: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count activations above 0 in bins of equal width from 0 to the largest, bin i over (i, i + 1] of `BINS` parts."""
    # Products of a float32 and a small number are exact in float64, so that a bin's upper edge is in the bin.
    scaled_N = activation_N.astype(np.float64) * BINS / activation_N.max(initial=0)
    return np.bincount(np.ceil(scaled_N).astype(np.int64) - 1, minlength=BINS)


def _rows_of(path: Path, contexts: Tokens, tokens: Path) -> Rows:
    """Read the rows of a shard and refuse those that were chosen from other tokens."""
    rows = read_rows(path)
    if rows.tokens_hash != contexts.hash:
        raise UserError(f"{path}: its rows are not of {tokens}; make the rows again")
    return rows


def _write_samples(path: Path, parts: Iterable[pa.Table], metadata: dict[str, str]) -> None:
    with pq.ParquetWriter(path, SAMPLES_SCHEMA.with_metadata(metadata)) as writer:
        for part in parts:
            writer.write_table(part.replace_schema_metadata(metadata))


def _lists(values_LS: NDArray[np.float64] | NDArray[np.int64]) -> pa.ListArray:
    ends = np.arange(len(values_LS) + 1, dtype=np.int32) * values_LS.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values_LS.ravel()))


def _metadata(
    settings: FeatureSettings, dictionary: Path, sites: Sequence[Site], rows: int, study: Path | None
) -> dict[str, str]:
    """Say in the file what made it: provenance, the run, the sites in order, the settings and the rows read."""
    return {
        **provenance(study),
        **{name: str(value) for name, value in read_identity(dictionary)._asdict().items()},
        "sites": json.dumps([site._asdict() for site in sites]),
        "rows": str(rows),
        **{name: str(value) for name, value in settings.model_dump().items()},
    }
