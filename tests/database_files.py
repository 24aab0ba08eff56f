"""Files of a run as the commands before the ingest write them, in small or in large."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ontogeny.database.artefacts import Besides
from ontogeny.evaluation.tables import Measurement, RunIdentity, metrics_table
from ontogeny.evaluation.type_rules import TYPES
from ontogeny.sites import Site

SITES = [Site("neox", step, "blocks.2.hook_resid_post") for step in (0, 1, 4, 64, 512)]


MADE_BY = {"study": "planets", "study_hash": "h1", "commit": "c1", "study_seed": "0", "versions": "numpy 2"}
"""What the tables say of what made them."""


BINS, TOP, TASKS = 40, 5, ("induction", "agreement")


class RunFiles(NamedTuple):
    """Folders of one run."""

    features: Path
    metrics: Path
    dictionary: Path

    def besides(self) -> Besides:
        """Tables that not every run has."""
        return Besides(
            self.features / "decoders.parquet",
            self.metrics / "feature_types.parquet",
            self.features / "interpretations.parquet",
            tuple(self.metrics.glob("attributions-*.parquet")),
        )


def write_run(
    root: Path,
    run: str = "latents64-k4-seed0",
    latents: int = 64,
    samples: int = 10,
    seed: int = 0,
    window: int = 12,
    sites: list[Site] = SITES,
    gate: str = "shared",
) -> RunFiles:
    """Write the files of a run with random numbers, 1 in 16 of its latents dead, one without a decoder."""
    files = RunFiles(*(root / kind / "crosscoder" / run for kind in ("features", "metrics", "dictionaries")))
    for folder in files:
        folder.mkdir(parents=True, exist_ok=True)
    identity = RunIdentity("crosscoder", run, latents, 4.0, 0)
    config = {**identity._asdict(), "sites": [site._asdict() for site in sites], "study": "planets", "gate": gate}
    (files.dictionary / "config.json").write_text(json.dumps(config))
    metadata = {
        **MADE_BY,
        **{key: str(value) for key, value in identity._asdict().items()},
        "sites": json.dumps([site._asdict() for site in sites]),
        "emergence_threshold": "0.5",
        "rows": "4096",
    }
    random = np.random.default_rng(seed)
    features = feature_table(random, latents, sites)
    pq.write_table(features.replace_schema_metadata(metadata), files.features / "features.parquet")
    dead = features["dead"].to_numpy()
    with pq.ParquetWriter(files.features / "samples.parquet", SAMPLES.with_metadata(metadata)) as writer:
        for first in range(0, latents, 6553):
            numbers = [n for n in range(first, min(latents, first + 6553)) if not dead[n]]
            table = sample_table(random, numbers, samples, window, len(sites))
            writer.write_table(table.replace_schema_metadata(metadata))
    write_besides(files, random, dead, sites, metadata)
    write_metrics(files.metrics, identity, sites=sites)
    return files


def write_metrics(folder: Path, identity: RunIdentity, fvu: float = 0.125, sites: list[Site] = SITES) -> None:
    """Write the two tables of metrics."""
    pooled = [Measurement(None, "fvu", fvu, 4096), Measurement(None, "dead", 0.0625, 4096)]
    each = [Measurement(site, "fvu", fvu + site.step / 4096, 4096) for site in sites]
    save(metrics_table(identity, pooled + each), folder / "reconstruction.csv")
    nll = [Measurement(site, "nll_clean", 8.0 - site.step / 256, 2048) for site in sites]
    recovered = [Measurement(site, "recovered_mean", 0.9 if site.step else float("nan"), 2048) for site in sites]
    save(metrics_table(identity, nll + recovered), folder / "nll-neox.csv")


def save(table: pd.DataFrame, file: Path) -> None:
    table.to_csv(file, index=False)


def feature_table(random: np.random.Generator, latents: int, sites: list[Site]) -> pa.Table:
    norms_LS = random.gamma(1.0, size=(latents, len(sites)))
    norms_LS[min(3, latents - 1)] = 0
    most_L1 = norms_LS.max(axis=1, keepdims=True)
    normalised_LS = np.divide(norms_LS, most_L1, out=np.zeros_like(norms_LS), where=most_L1 > 0)
    above_LS = normalised_LS > 0.5
    absent = ~above_LS.any(axis=1)
    peak, first = normalised_LS.argmax(axis=1), above_LS.argmax(axis=1)
    steps = np.array([site.step for site in sites])
    dead = np.arange(latents) % 16 == 5
    density = np.where(dead, 0.0, random.random(latents))
    return pa.table(
        {
            "feature": pa.array(np.arange(latents, dtype=np.int32)),
            "density": pa.array(density),
            "mean_activation": pa.array(density * 2),
            "max_activation": pa.array(density * 5),
            "decoder_norm": pa.array(list(norms_LS)),
            "normalised_norm": pa.array(list(normalised_LS)),
            "peak_site": pa.array(peak.astype(np.int32), mask=absent),
            "peak_step": pa.array(steps[peak], mask=absent),
            "emergence_site": pa.array(first.astype(np.int32), mask=absent),
            "emergence_step": pa.array(steps[first], mask=absent),
            "initialisation": pa.array(above_LS[:, 0]),
            "persistence": pa.array(above_LS.mean(axis=1)),
            "class": pa.array(np.where(above_LS[:, 0], "initialisation", "emergent"), mask=absent),
            "dead": pa.array(dead),
            "histogram": pa.array(list(random.integers(0, 99, (latents, BINS)) * ~dead[:, None])),
        }
    )


def write_besides(
    files: RunFiles, random: np.random.Generator, dead: Any, sites: list[Site], metadata: dict[str, str]
) -> None:
    """Write the tables that not every run has: rated and typed is every third feature that fires."""
    L, S = len(dead), len(sites)
    cosine_LSS = random.uniform(-1, 1, (L, S, S))
    cosine_LSS = (cosine_LSS + cosine_LSS.transpose(0, 2, 1)) / 2
    cosine_LSS[:, range(S), range(S)] = 1
    token_LSN = random.integers(0, 4096, (L, S, TOP))
    logits = np.sort(random.random((L, S, TOP)))
    decoders = {
        "feature": pa.array(np.arange(L, dtype=np.int32)),
        "rotation": pa.array(list(cosine_LSS.reshape(L, -1).astype(np.float32))),
        "neighbours": pa.array([[(n + k) % L for k in range(1, 4)] for n in range(L)]),
        "neighbour_cosines": pa.array([[0.9, 0.5, 0.25]] * L),
        "promoted_texts": pa.array([[[f" w{token}" for token in row] for row in each] for each in token_LSN]),
        "promoted_logits": pa.array(logits[..., ::-1].tolist()),
        "suppressed_texts": pa.array([[[f" w{4095 - token}" for token in row] for row in each] for each in token_LSN]),
        "suppressed_logits": pa.array((-logits).tolist()),
    }
    save_table(decoders, files.features / "decoders.parquet", metadata)
    chosen = np.flatnonzero(~dead)[::3]
    kinds = [TYPES[n % len(TYPES)] for n in range(len(chosen))]
    typed = {"feature": pa.array(chosen.astype(np.int32)), "type": pa.array(kinds)}
    context = random.integers(1, 60, len(chosen)).astype(float)
    save_table({**typed, "context_needed": pa.array(context)}, files.metrics / "feature_types.parquet", metadata)
    rated = {
        "feature": typed["feature"],
        "explanation": pa.array([f"tokens about concept {n}" if n % 4 else None for n in range(len(chosen))]),
        "complexity": pa.array(random.integers(1, 6, len(chosen)).astype(np.int8)),
        "detection": pa.array(random.random(len(chosen))),
        "fuzzing": pa.array(random.random(len(chosen))),
    }
    save_table(rated, files.features / "interpretations.parquet", metadata)
    for model in dict.fromkeys(site.model for site in sites):
        own = [site for site in sites if site.model == model]
        of_model = {"model": model, "tasks": json.dumps(TASKS), "sites": json.dumps([s._asdict() for s in own])}
        attributed = {task: pa.array(list(random.normal(size=(L, len(own))))) for task in TASKS}
        save_table(
            {"feature": decoders["feature"], **attributed},
            files.metrics / f"attributions-{model}.parquet",
            {**metadata, **of_model},
        )


def save_table(columns: dict[str, pa.Array], file: Path, metadata: dict[str, str]) -> None:
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)


SAMPLES = pa.schema(
    [
        *((name, pa.int32()) for name in ("feature", "rank")),
        ("quantile", pa.int8()),
        ("activation", pa.float32()),
        *((name, pa.int32()) for name in ("document", "context", "position", "start")),
        ("tokens", pa.list_(pa.int32())),
        ("texts", pa.list_(pa.string())),
        ("activations", pa.list_(pa.float32())),
        ("readings", pa.binary()),
        ("readings_scale", pa.float32()),
    ]
)


def sample_table(random: np.random.Generator, features: list[int], samples: int, window: int, sites: int) -> pa.Table:
    """The last two samples of a feature are from bands of activation."""
    count, width = len(features) * samples, 2 * window + 1
    tokens = random.integers(0, 4096, (count, width)).astype(np.int32)
    activations = random.random((count, width)).astype(np.float32)
    unread = random.random((count, width)) < 0.1
    position = window + random.integers(0, 100, count).astype(np.int32)
    ends = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    texts = pa.array([f" w{token}" for token in range(4096)]).take(pa.array(tokens.ravel()))
    group = np.tile(np.arange(samples) - max(samples - 2, 1), len(features)).astype(np.int8)
    readings = random.integers(-127, 128, (count, sites, width)).astype(np.int8)
    readings[np.repeat(unread[:, None], sites, axis=1)] = -128
    return pa.table(
        [
            pa.array(np.repeat(np.array(features, dtype=np.int32), samples)),
            pa.array(np.tile(np.arange(samples, dtype=np.int32), len(features))),
            pa.array(group, mask=group < 0),
            pa.array(activations.max(axis=1)),
            pa.array(random.integers(0, 200, count).astype(np.int32)),
            pa.array(random.integers(0, 999, count).astype(np.int32)),
            pa.array(position),
            pa.array(position - window),
            pa.ListArray.from_arrays(ends, pa.array(tokens.ravel())),
            pa.ListArray.from_arrays(ends, texts),
            pa.ListArray.from_arrays(ends, pa.array(activations.ravel(), mask=unread.ravel())),
            pa.array([one.tobytes() for one in readings], pa.binary()),
            pa.array(np.full(count, 0.01, np.float32)),
        ],
        schema=SAMPLES,
    )
