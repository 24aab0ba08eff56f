"""Probes and latent scaling tell a feature that is gone from one whose decoder norm was made small."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_study import random_crosscoder, save, script
from numpy.typing import NDArray
from planted_runs import write_rows_file

from ontogeny.activations.store import write_shard
from ontogeny.config.evaluation import ProbeSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.probes import COLUMNS, choose, write_probes
from ontogeny.hdf5 import open_arrays
from ontogeny.sites import Site

SITES = tuple(Site("toy", step, "blocks.0.hook_resid_post") for step in (0, 4, 16))
D_MODEL, FEATURES = 8, 6
ROWS = {"train-00000": 1024, "train-00001": 512, "heldout-00000": 4096}
Doubles = NDArray[np.float64]


def write_shards(folder: Path, raw_BSD: Doubles) -> dict[str, Doubles]:
    """Write rows as shards of every site; return what was stored."""
    stored, start = {}, 0
    for shard, rows in ROWS.items():
        file = write_rows_file(folder / f"activations/rows/{shard}.h5", rows)
        rows_hash = str(open_arrays(file, {}, ("rows_hash",)).attributes["rows_hash"])
        stored[shard] = raw_BSD[start : start + rows].astype(np.float16).astype(np.float64)
        start += rows
        for s, site in enumerate(SITES):
            x_BD = np.ascontiguousarray(stored[shard][:, s], np.float32)
            write_shard(folder / f"activations/{site.key}/{shard}.h5", x_BD, site, rows_hash, "float16", {})
    return stored


def write_features(folder: Path, firings: list[int]) -> Path:
    rows = ROWS["heldout-00000"]
    table = pa.table({"density": np.array(firings) / rows})
    pq.write_table(table.replace_schema_metadata({"rows": str(rows)}), folder / "features.parquet")
    return folder / "features.parquet"


def probed(folder: Path, crosscoder: Crosscoder, firings: list[int], **settings: float) -> pd.DataFrame:
    """Write probes of a dictionary, and index the table by feature and step."""
    write_probes(
        ProbeSettings(**settings),  # type: ignore[arg-type]
        save(folder, crosscoder),
        write_features(folder, firings),
        folder / "activations",
        [shard for shard in ROWS if shard.startswith("train")],
        ["heldout-00000"],
        folder / "probes.csv",
    )
    return pd.read_csv(folder / "probes.csv").set_index(["feature", "step"])


class Planted(NamedTuple):
    """A dictionary that is right about what was planted, and how strongly features are written in scaled units."""

    crosscoder: Crosscoder
    strength_GS: Doubles


def planted(folder: Path) -> Planted:
    """Plant six features of which 0 is absent at step 4; the activations have scales and means that are undone."""
    random = np.random.default_rng(0)
    strength_GS = random.uniform(1, 3, (FEATURES, len(SITES)))
    strength_GS[0, 1] = 0
    unit_SGD = np.stack([np.linalg.qr(random.normal(size=(D_MODEL, D_MODEL)))[0][:FEATURES] for _ in SITES])
    rows = sum(ROWS.values())
    f_BG = np.where(random.random((rows, FEATURES)) < 0.2, random.uniform(0.5, 2, (rows, FEATURES)), 0)
    x_BSD = np.einsum("bg,gs,sgd->bsd", f_BG, strength_GS, unit_SGD)
    x_BSD += 0.02 * random.normal(size=x_BSD.shape)
    scales_S, centers_SD = np.array([1.0, 0.5, 0.2]), random.normal(size=(len(SITES), D_MODEL))
    write_shards(folder, x_BSD / scales_S[:, None] + centers_SD)

    crosscoder = Crosscoder(SITES, D_MODEL, FEATURES, "relu")
    with torch.no_grad():
        crosscoder.scales.copy_(torch.from_numpy(scales_S))
        crosscoder.centers.copy_(torch.from_numpy(centers_SD))
        crosscoder.W_dec.copy_(torch.from_numpy(np.einsum("gs,sgd->gsd", strength_GS, unit_SGD)))
        crosscoder.W_enc_LSD[:, 2] = torch.from_numpy(unit_SGD[2] / strength_GS[:, 2:])
        crosscoder.b_enc.fill_(-0.1)
    return Planted(crosscoder, strength_GS)


def test_a_feature_that_is_absent_is_told_from_one_whose_norm_was_made_small(tmp_path: Path) -> None:
    crosscoder, strength_GS = planted(tmp_path)
    honest = probed(tmp_path, crosscoder, [100] * FEATURES)
    with torch.no_grad():
        crosscoder.W_dec[1, 1] *= 0.05
        crosscoder.W_dec[0, 1] = 0.05 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    made_small = probed(tmp_path, crosscoder, [100] * FEATURES)

    gone, shrunk = made_small.loc[0, 4], made_small.loc[1, 4]
    assert gone["r2"] < 0.05
    assert abs(gone["beta"]) < 0.1  # of strengths between 1 and 3
    assert 0 < gone["decoder_norm"] < 0.3
    assert shrunk["decoder_norm"] == pytest.approx(0.05 * strength_GS[1, 1], rel=1e-5)
    assert shrunk["r2"] > 0.9
    # The bias makes activations smaller by 0.1, so that the best decoder is a little larger than what was planted.
    assert shrunk["beta"] == pytest.approx(strength_GS[1, 1], rel=0.1)
    assert shrunk["beta"] == pytest.approx(honest.loc[1, 4]["beta"], rel=1e-3)
    for feature in range(2, FEATURES):
        assert made_small.loc[feature]["beta"].to_numpy() == pytest.approx(strength_GS[feature], rel=0.1)
        assert (made_small.loc[feature]["r2"] > 0.9).all()


def reference(
    crosscoder: Crosscoder, fitted: Doubles, seen: Doubles, feature: int, s: int, ridge: float
) -> tuple[float, float]:
    """Take R^2 and beta of a feature at a site by least squares in float64, row by row."""
    scale, center = float(crosscoder.scales[s]), crosscoder.centers[s].double().numpy()
    decoder_LD = crosscoder.W_dec[:, s].detach().double().numpy()
    parts = []
    for raw_BSD in (fitted, seen):
        with torch.inference_mode():
            f = crosscoder.encode(torch.from_numpy(raw_BSD).float()).double().numpy()
        shared_BL, here_BL = (f, f) if f.ndim == 2 else (f.max(1), f[:, s])
        x_BD = (raw_BSD[:, s] - center) * scale
        x_hat_BD = here_BL @ decoder_LD + crosscoder.b_dec[s].detach().double().numpy()
        y_BD = x_BD - x_hat_BD + here_BL[:, [feature]] * decoder_LD[feature]
        parts.append((x_BD, shared_BL[:, feature], y_BD))
    (x, f, y), (x_seen, f_seen, y_seen) = parts
    z = x - x.mean(0)
    penalty = ridge * (z**2).sum() / x.shape[1]
    rows = np.concatenate([z, np.sqrt(penalty) * np.eye(x.shape[1])])
    w = np.linalg.lstsq(rows, np.concatenate([f - f.mean(), np.zeros(x.shape[1])]), rcond=None)[0]
    error = f_seen - f.mean() - (x_seen - x.mean(0)) @ w
    r2 = 1 - (error**2).sum() / ((f_seen - f_seen.mean()) ** 2).sum()
    d = np.linalg.lstsq(np.stack([f, np.ones(len(f))], 1), y, rcond=None)[0][0]
    d /= np.linalg.norm(d)
    beta = np.linalg.lstsq(np.stack([f_seen, np.ones(len(f_seen))], 1), y_seen @ d, rcond=None)[0][0]
    return float(r2), float(beta)


@pytest.mark.parametrize(("nonlinearity", "gate"), [("batchtopk", "shared"), ("jumprelu", "site")])
def test_numpy_gets_the_same_by_least_squares(nonlinearity: str, gate: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    mixed = random.normal(size=(len(SITES) * D_MODEL, len(SITES) * D_MODEL))
    raw_BSD = (random.normal(size=(sum(ROWS.values()), len(mixed))) @ mixed).reshape(-1, len(SITES), D_MODEL) + 3
    stored = write_shards(tmp_path, raw_BSD)
    crosscoder = random_crosscoder(D_MODEL, nonlinearity, gate, latents=12, sites=SITES)
    firings = [1000] * 12
    firings[3] = 0  # it never fires
    table = probed(tmp_path, crosscoder, firings, ridge=0.05, rows=1100)
    fitted = np.concatenate([stored["train-00000"], stored["train-00001"][:256]])  # whole blocks of 256
    seen = stored["heldout-00000"][:1280]
    assert set(table["tokens"]) == {1280}
    assert set(table.index.get_level_values("feature")) == set(range(12)) - {3}
    with torch.inference_mode():
        fires_BL = crosscoder.encode(torch.from_numpy(seen).float()) > 0
    assert table.loc[7]["firings"].iloc[0] == int((fires_BL if fires_BL.ndim == 2 else fires_BL.any(1))[:, 7].sum())
    for feature in (0, 7, 11):
        for s, site in enumerate(SITES):
            r2, beta = reference(crosscoder, fitted, seen, feature, s, 0.05)
            assert table.loc[feature, site.step]["r2"] == pytest.approx(r2, abs=1e-5)
            assert table.loc[feature, site.step]["beta"] == pytest.approx(beta, rel=1e-4, abs=1e-5)


def test_features_are_drawn_from_those_that_fire_often_enough() -> None:
    firings = np.array([0, 40, 31, 32, 500, 90])
    everyone = choose(firings, ProbeSettings(), Path("features.parquet"))
    assert everyone.tolist() == [1, 3, 4, 5]
    some = {tuple(choose(firings, ProbeSettings(features=2, seed=seed), Path("f"))) for seed in range(20)}
    assert len(some) > 3
    assert set().union(*some) == {1, 3, 4, 5}
    with pytest.raises(UserError, match=r"features.parquet: no feature fires on 32 heldout rows .* the most .* on 31"):
        choose(np.array([0, 31]), ProbeSettings(), Path("features.parquet"))


def test_the_command_writes_the_same_bytes(tmp_path: Path) -> None:
    table = probed(tmp_path, planted(tmp_path).crosscoder, [100] * FEATURES)
    assert len(table) == FEATURES * len(SITES)
    assert tuple(pd.read_csv(tmp_path / "probes.csv").columns) == COLUMNS
    assert set(table["tokens"]) == {ROWS["heldout-00000"]}
    made = script(
        "probes.py", "--settings", "{}", "--dictionary", tmp_path / "dictionaries/crosscoder/run", "--features",
        tmp_path / "features.parquet", "--activations", tmp_path / "activations", "--train", "train-00000",
        "train-00001", "--heldout", "heldout-00000", "--out", tmp_path / "again.csv",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "probes.csv").read_bytes()
