"""Tables such as the pipeline writes them, of a made-up study with two populations of features."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from ontogeny.config.evaluation import FeatureTypeSettings
from ontogeny.evaluation.geometry_tables import write_geometry
from ontogeny.evaluation.matching_tables import agreement_table, matched_pairs, side
from ontogeny.evaluation.probes import COLUMNS as PROBES
from ontogeny.evaluation.tables import Measurement, RunIdentity, metrics_table
from ontogeny.evaluation.type_rules import TYPES
from ontogeny.sites import Site

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
HOOK = "blocks.2.hook_resid_post"
SITES = tuple(Site("neox", step, HOOK) for step in STEPS)
ROWS = 32768
THRESHOLD = 0.5


LAST = SITES[-1:]
UNTRAINED = (Site("neox", 0, HOOK), Site("untrained", 0, HOOK))
LAYERS = tuple(Site("neox", 1000, f"blocks.{block}.hook_resid_post") for block in range(12))


def identity(dictionary: str, k: int, seed: int = 0, latents: int = 2048) -> RunIdentity:
    return RunIdentity(dictionary, f"latents{latents}-k{k}-seed{seed}", latents, float(k), seed)


def explained(k: int, place: float, gain: float = 0.0) -> float:
    """Explained variance that falls over training and rises with k; `place` runs from 0 (first site) to 1 (last)."""
    return 1 - (0.015 + 0.11 * place**1.5) * (32 / k) ** 0.45 * (1 - gain)


def reconstruction(
    folder: Path, run: RunIdentity, sites: tuple[Site, ...] = SITES, gain: float = 0.0, shift: float = 0.0
) -> Path:
    """Write `reconstruction.csv` of a run."""
    k = int(run.sparsity)
    places = np.linspace(0, 1, len(sites)) if len(sites) > 1 else np.ones(1)
    values = [explained(k, place, gain) + shift for place in places]
    measured = [
        Measurement(site, metric, value, ROWS)
        for site, ev in [*zip(sites, values, strict=True), (None, float(np.mean(values)))]
        for metric, value in (("explained_variance", ev), ("fvu", 1 - ev), ("l0", k * (0.985 + 5 * shift)))
    ]
    measured.append(Measurement(None, "dead", 0.04, ROWS))
    return _write(folder / "metrics" / run.dictionary / run.run / "reconstruction.csv", run, measured)


def nll(folder: Path, run: RunIdentity, sites: tuple[Site, ...] = SITES) -> Path:
    """Write `nll-neox.csv` of a run: the model learns after step 16; before, an ablation costs next to nothing."""
    measured = []
    for site in sites:
        learnt = 1 / (1 + (90 / max(site.step, 0.5)) ** 1.6)
        clean = 8.32 - 3.95 * learnt
        gaps = {"mean": 2.3 * learnt**1.3, "zero": 3.4 * learnt**1.3}
        error = 0.07 * learnt * (32 / run.sparsity) ** 0.6
        measured += [
            Measurement(site, "nll_clean", clean, 32512),
            Measurement(site, "nll_reconstructed", clean + error, 32512),
        ]
        for name, gap in gaps.items():
            measured.append(Measurement(site, f"nll_{name}_ablated", clean + gap, 32512))
            measured.append(Measurement(site, f"recovered_{name}", (gap - error) / gap, 32512))
    return _write(folder / "metrics" / run.dictionary / run.run / "nll-neox.csv", run, measured)


def _write(file: Path, run: RunIdentity, measured: list[Measurement]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    metrics_table(run, measured).to_csv(file, index=False)
    return file


def norms(latents: int, seed: int = 1, initial: float = 0.3) -> np.ndarray:
    """Decoder norms (L, S): a share `initial` is strong at step 0 and gone by step 32, the others emerge and stay."""
    random = np.random.default_rng(seed)
    place = np.log2(np.maximum(STEPS, 0.5))
    count = int(initial * latents)
    gone = random.normal(3.3, 0.7, (count, 1))
    falling = 1 / (1 + np.exp((place - gone) * 2.2)) + 0.06
    came = np.concatenate([random.normal(6.5, 1.2, (latents - count, 1))])
    rising = 1 / (1 + np.exp(-(place - came) * 1.8)) + 0.03
    fade = np.where(random.random((latents - count, 1)) < 0.2, np.exp(-np.maximum(place - came - 1.5, 0) / 2), 1)
    noise = 1 + 0.06 * random.normal(size=(latents, len(STEPS)))
    return np.concatenate([falling, rising * fade]) * np.abs(noise) * random.uniform(0.5, 2, (latents, 1))


def features(folder: Path, norms_LS: np.ndarray, dead: float = 0.05, sites: tuple[Site, ...] = SITES) -> Path:
    """Write `features.parquet` from decoder norms; a share `dead` of the features never fires."""
    normalised = norms_LS / norms_LS.max(axis=1, keepdims=True)
    above = normalised > THRESHOLD
    emergence, peak = above.argmax(axis=1), normalised.argmax(axis=1)
    steps = np.array([site.step for site in sites])
    silent = np.random.default_rng(5).permutation(len(norms_LS)) < dead * len(norms_LS)
    table = pa.table(
        {
            "feature": np.arange(len(norms_LS)),
            "density": np.where(silent, 0, 0.01),
            "decoder_norm": list(norms_LS),
            "normalised_norm": list(normalised),
            "peak_site": peak,
            "peak_step": steps[peak],
            "emergence_site": emergence,
            "emergence_step": steps[emergence],
            "initialisation": above[:, 0],
            "persistence": above.mean(axis=1),
            "class": np.where(above[:, 0], "initialisation", "emergent"),
            "dead": silent,
        }
    )
    metadata = {
        "sites": json.dumps([site._asdict() for site in sites]),
        "dictionary": "crosscoder",
        "run": "latents2048-k32-seed0",
        "emergence_threshold": str(THRESHOLD),
        "rows": str(ROWS),
    }
    file = folder / "features" / "crosscoder" / "latents2048-k32-seed0" / "features.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file


def geometry(folder: Path, table: Path, turned: float = 120.0) -> dict[str, Path]:
    """Write the geometry of the run of a `features.parquet`, whose decoders turn by up to `turned` degrees."""
    read = pq.read_table(table)
    sites = json.loads(read.schema.metadata[b"sites"])
    norms_LS = np.array(read["decoder_norm"].to_pylist())
    random = np.random.default_rng(7)
    angle_LS = np.radians(turned) * random.random((len(norms_LS), 1)) * np.linspace(0, 1, len(sites)) ** 2
    plane_LDP = np.linalg.qr(random.standard_normal((len(norms_LS), 16, 2)))[0]
    decoder_LSD = norms_LS[:, :, None] * np.stack([np.cos(angle_LS), np.sin(angle_LS)], axis=2) @ plane_LDP.mT
    run = RunIdentity("crosscoder", "latents2048-k32-seed0", len(norms_LS), 32.0, 0)
    dictionary = folder / "dictionaries" / run.dictionary / run.run
    dictionary.mkdir(parents=True, exist_ok=True)
    save_file({"W_dec": torch.tensor(decoder_LSD, dtype=torch.float32)}, dictionary / "crosscoder.safetensors")
    (dictionary / "config.json").write_text(json.dumps({**run._asdict(), "sites": sites}))
    metrics = folder / "metrics" / run.dictionary / run.run
    write_geometry(dictionary, table, metrics)
    return {name: metrics / f"{name}.csv" for name in ("rotation", "persistence", "classes", "dimensionality")}


def overview_of(folder: Path, table: Path) -> list[Path]:
    """Write what `evolution_overview` reads."""
    tables = geometry(folder, table)
    return [table, tables["rotation"], tables["persistence"]]


def classes_of(folder: Path, table: Path) -> list[Path]:
    """Write what `feature_classes` reads."""
    return [table, geometry(folder, table)["classes"]]


def types_of(folder: Path, table: Path, types: tuple[str, ...] = TYPES, context: float = 2.0) -> list[Path]:
    """Write what `feature_types` and `complexity` read: types by turns, and contexts that grow with the emergence."""
    read = pq.read_table(table)
    frame = read.select(["feature", "emergence_site", "dead"]).to_pandas()
    alive = frame[~frame["dead"]].reset_index(drop=True)
    chance = np.random.default_rng(9).integers(0, 3, len(alive))
    typed = pa.table(
        {
            "feature": alive["feature"].to_numpy(),
            "type": [types[number % len(types)] for number in range(len(alive))],
            "context_needed": np.minimum(context ** (alive["emergence_site"].to_numpy() // 3 + chance), 127.0),
            "context_samples": np.full(len(alive), 8),
        }
    )
    kept = {name: read.schema.metadata[name.encode()] for name in ("dictionary", "run", "sites")}
    file = folder / "metrics" / "crosscoder" / "latents2048-k32-seed0" / "feature_types.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = FeatureTypeSettings().model_dump_json()
    pq.write_table(typed.replace_schema_metadata({**kept, "settings": settings}), file)
    return [table, file]


def comparisons(folder: Path, *names: str, steps: tuple[int, ...] = STEPS, noise: float = 0.5) -> list[Path]:
    """Write `pairs.csv` and `agreement.csv` of a run and others that have learnt the same, dated with some error."""
    random = np.random.default_rng(9)
    sites = tuple(Site("neox", step, HOOK) for step in steps)
    reference, files = RunIdentity("crosscoder", "latents2048-k32-seed0", 2048, 32.0, 0), dict[str, list[Path]]()
    decoder_LSD = norms(400)[:, : len(steps), None] * random.standard_normal((400, 1, 16))
    for number, name in enumerate(names):
        shared = sites[:: number + 1]
        other_LSD = decoder_LSD * np.exp(noise * random.standard_normal((400, len(steps), 1)))
        sides = [
            side(reference, np.arange(400), decoder_LSD.astype(np.float32), sites, THRESHOLD),
            side(reference._replace(dictionary=name), np.arange(400), other_LSD.astype(np.float32), sites, THRESHOLD),
        ]
        pairs = matched_pairs(*sides, shared, 0.7)
        tables = {"pairs": pairs, "agreement": agreement_table(*sides, shared, pairs).assign(rows=ROWS)}
        for kind, table in tables.items():
            files.setdefault(kind, []).append(folder / "matching" / name / f"{kind}.csv")
            files[kind][-1].parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(files[kind][-1], index=False)
    return files["pairs"] + files["agreement"]


def dimensionality(folder: Path, run: RunIdentity, sites: tuple[Site, ...] = SITES) -> Path:
    """Write `dimensionality.csv` of a run: features are pressed together, and spread out again."""
    places = np.linspace(-1, 1, len(sites))
    measured = [
        Measurement(site, "feature_dimensionality", 0.4 + 0.3 * place**2, 0)
        for site, place in zip(sites, places, strict=True)
    ]
    return _write(folder / "metrics" / run.dictionary / run.run / "dimensionality.csv", run, measured)


def probes(folder: Path, sites: tuple[Site, ...] = SITES, features: int = 60, best: float = 0.6) -> Path:
    """Write `probes.csv`: of features with a small norm some are gone, some faded and some shrunk, by turns."""
    random = np.random.default_rng(2)
    norms_LS = random.uniform(0.02, 1, (features, len(sites)))
    norms_LS[np.arange(features), random.integers(len(sites), size=features)] = 1.0
    kind_LS = np.where(norms_LS == 1, 1, np.arange(norms_LS.size).reshape(norms_LS.shape) % 3)
    read_LS = np.where(kind_LS == 0, 0.1 + 0.35 * norms_LS, 0.52 + 0.48 * norms_LS)
    beta_LS = np.where(kind_LS == 2, np.maximum(2.5 * norms_LS, 0.6), 1.05 * norms_LS) * 1.4
    run = identity("crosscoder", 32)
    rows = [
        (*run, *site, feature, 1.4 * norms_LS[feature, s], best * read_LS[feature, s], beta_LS[feature, s], 90, ROWS)
        for feature in range(features)
        for s, site in enumerate(sites)
    ]
    file = folder / "metrics" / run.dictionary / run.run / "probes.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(PROBES)).to_csv(file, index=False)
    return file


def study(folder: Path) -> Path:
    """Write the study's `study.json`."""
    file = folder / "study.json"
    value = {"study": "default", "config": "config.yaml", "hash": "0123456789ab", "commit": "deadbeef0123", "seed": 0}
    file.write_text(json.dumps(value))
    return file


def reconstruction_and_nll(folder: Path, sites: tuple[Site, ...], dictionary: str = "crosscoder") -> list[Path]:
    run = identity(dictionary, 32)
    return [reconstruction(folder, run, sites), nll(folder, run, sites)]


def features_of(folder: Path, initial: float = 0.3, sites: tuple[Site, ...] = SITES) -> list[Path]:
    return [features(folder, norms(300, initial=initial), sites=sites)]
