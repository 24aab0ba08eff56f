"""Geometry of decoders: cases computed by hand, all pairs in numpy, and evolution that was planted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_study import script
from figure_tables import ROWS, features
from numpy.typing import NDArray
from planted_runs import HOOK, planted_model
from safetensors.torch import save_file

from ontogeny.activations.planted_features import planted_directions, planted_features
from ontogeny.errors import UserError
from ontogeny.evaluation import geometry_tables
from ontogeny.evaluation.emergence import CLASSES, feature_classes
from ontogeny.evaluation.geometry import RotationSums, class_counts, persistence_counts, total_dimensionality
from ontogeny.evaluation.geometry_tables import write_geometry
from ontogeny.evaluation.tables import COLUMNS
from ontogeny.sites import Site

BY_HAND = {
    "always-on": [1.0, 0.6, 0.9],
    "returning": [0.6, 0.5, 1.0],  # exactly tau is not above it
    "fading": [1.0, 1.0, 0.2],
    "lasting": [0.5, 0.0, 1.0],
    "transient": [0.0, 1.0, 0.1],
}


def test_classes_by_hand() -> None:
    norms_LS = np.array(list(BY_HAND.values()))
    assert feature_classes(norms_LS, 0.5).tolist() == list(BY_HAND) == list(CLASSES)
    assert class_counts(norms_LS, 0.5) == dict.fromkeys(BY_HAND, 1)
    assert feature_classes(norms_LS, 0.05).tolist() == ["always-on"] * 3 + ["returning", "lasting"]
    assert feature_classes(norms_LS, 0.95).tolist() == ["fading", "lasting", "fading", "lasting", "transient"]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_every_feature_is_in_one_class_and_in_the_right_half(threshold: float) -> None:
    norms_LS = np.random.default_rng(3).random((400, 5)) ** 2
    norms_LS /= norms_LS.max(axis=1, keepdims=True)
    found_L = feature_classes(norms_LS, threshold)
    for name, half in CLASSES.items():
        assert ((norms_LS[found_L == name, 0] > threshold) == (half == "initialisation")).all()
    assert sum(class_counts(norms_LS, threshold).values()) == 400


def test_persistence_by_hand() -> None:
    norms_LS = np.array([[1.0, 0.2, 0.2], [1.0, 0.6, 0.2], [0.4, 0.7, 1.0], [1.0, 1.0, 1.0], [0.0, 0.5, 1.0]])
    assert persistence_counts(norms_LS, 0.5).tolist() == [0, 2, 2, 1]
    assert persistence_counts(norms_LS[:0], 0.5).tolist() == [0, 0, 0, 0]


def turning(degrees_LS: NDArray[np.float64], d_model: int = 6) -> torch.Tensor:
    """Directions that stand at angles in a plane of each feature's own (shape: [L, S, D])."""
    planes_LDP = np.linalg.qr(np.random.default_rng(0).standard_normal((len(degrees_LS), d_model, 2)))[0]
    angle_LS2 = np.stack([np.cos(np.radians(degrees_LS)), np.sin(np.radians(degrees_LS))], axis=2)
    return torch.from_numpy(angle_LS2 @ planes_LDP.mT)


def test_rotation_is_the_cosine_of_the_planted_angle() -> None:
    degrees_LS = np.array([[0.0, 30, 90, 180], [0.0, 60, 90, 90]])
    sums = RotationSums(3, 4)
    sizes = torch.tensor([[1.0, 7, 0.1, 2], [3, 0.01, 5, 1]], dtype=torch.float64)[:, :, None]
    sums.add(turning(degrees_LS) * sizes, torch.tensor([[True, True], [True, False], [False, False]]))
    cosines_LSS = np.cos(np.radians(degrees_LS[:, :, None] - degrees_LS[:, None, :]))
    assert sums.cosine()[0].numpy() == pytest.approx(cosines_LSS.mean(axis=0), abs=1e-12)
    assert sums.cosine()[1].numpy() == pytest.approx(cosines_LSS[0], abs=1e-12)
    error_SS = cosines_LSS.std(axis=0, ddof=1) / 2**0.5
    assert sums.standard_error()[0].numpy() == pytest.approx(error_SS, abs=1e-12)
    assert sums.standard_error()[1].isnan().all()
    assert sums.cosine()[2].isnan().all()
    assert sums.features[:, 0, 0].tolist() == [2, 1, 0]


def test_a_feature_counts_in_rotation_where_it_has_a_decoder() -> None:
    W_LSD = turning(np.array([[0.0, 90, 0], [0.0, 60, 0]]))
    W_LSD[0, 1] = 0
    sums = RotationSums(1, 3)
    sums.add(W_LSD, torch.ones(1, 2, dtype=torch.bool))
    assert sums.features[0].tolist() == [[2, 1, 2], [1, 1, 1], [2, 1, 2]]
    assert sums.cosine()[0, 0].numpy() == pytest.approx([1, 0.5, 1])


def test_dimensionality_by_hand() -> None:
    cases = {
        "orthogonal": (torch.eye(3) * torch.tensor([1.0, 5.0, 0.2])[:, None], 3.0),
        "antipodal pair": (torch.tensor([[2.0, 0], [-2.0, 0]]), 1.0),
        "one beside nothing": (torch.tensor([[0.0, 3.0], [0.0, 0.0]]), 1.0),
        "triangle": (torch.tensor([[1.0, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]), 2.0),
        "weak twin": (torch.tensor([[1.0, 0], [0.5, 0]]), 1 / 1.25 + 0.25 / 1.25),
        "nothing": (torch.zeros(0, 2), 0.0),
    }
    for name, (W_LD, expected) in cases.items():
        assert total_dimensionality(lambda W_LD=W_LD: [W_LD], W_LD.shape[1]) == pytest.approx(expected), name
    pair = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert total_dimensionality(lambda: [pair], 3) == pytest.approx(0.5 + 0.5 + 1 + 1)


def dimensionality_of_all_pairs(W_LD: NDArray[np.float64]) -> float:
    norms_L = np.linalg.norm(W_LD, axis=1)
    overlaps_LL = (W_LD / norms_L[:, None]) @ W_LD.T
    return float((norms_L**2 / (overlaps_LL**2).sum(axis=1)).sum())


def test_dimensionality_is_that_of_all_pairs_whatever_the_blocks() -> None:
    W_LD = (np.random.default_rng(1).standard_normal((70, 12)) * np.linspace(0.01, 4, 70)[:, None]).astype(np.float32)
    expected = dimensionality_of_all_pairs(W_LD.astype(np.float64))
    for size in (1, 9, 70):
        blocks = torch.from_numpy(W_LD).split(size)
        assert total_dimensionality(lambda blocks=blocks: blocks, 12) == pytest.approx(expected, rel=1e-12)
    assert 0 < expected <= 12


def write_run(folder: Path, W_LSD: torch.Tensor, sites: tuple[Site, ...], run: str = "latents2048-k32-seed0") -> Path:
    """Write what the geometry reads of a run."""
    out = folder / "dictionaries/crosscoder" / run
    out.mkdir(parents=True, exist_ok=True)
    save_file({"W_dec": W_LSD.float().contiguous()}, out / "crosscoder.safetensors")
    known = {"dictionary": "crosscoder", "run": run, "latents": len(W_LSD), "sparsity": 32.0, "seed": 0}
    (out / "config.json").write_text(json.dumps({**known, "sites": [site._asdict() for site in sites]}))
    return out


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_csv(file) for file in folder.glob("*.csv")}


def planted_run(folder: Path, **changes: Any) -> tuple[dict[str, pd.DataFrame], Any]:
    """Measure the dictionary that is the planted truth itself."""
    model = planted_model(
        checkpoints=[0, 1, 2, 4, 8], d_model=32, features=40, emergent=0.25, dying=0.25, rotating=0.25, rotation=90,
        **changes,
    )  # fmt: skip
    W_GSD = planted_directions(model, HOOK)
    sites = tuple(Site("toy", step, HOOK) for step in model.checkpoints)
    table = features(folder, np.linalg.norm(W_GSD, axis=2), dead=0, sites=sites)
    write_geometry(write_run(folder, torch.from_numpy(W_GSD), sites), table, folder / "metrics")
    return read(folder / "metrics"), planted_features(model)


def test_planted_evolution_is_measured(tmp_path: Path) -> None:
    tables, truth = planted_run(tmp_path)
    counts = tables["classes"].pivot(index="threshold", columns="metric", values="value").loc[0.1:0.9]
    kinds = pd.Series(truth.kind).value_counts()
    assert len(counts) == 41
    assert (counts["always-on"] == kinds["initial"] + kinds["rotating"]).all()
    assert (counts["lasting"] == kinds["emergent"]).all()
    assert (counts["fading"] == kinds["dying"]).all()
    assert (counts[["returning", "transient"]] == 0).all(axis=None)

    lives = tables["persistence"].pivot(index="sites_above", columns="class", values="value")
    lived_G = truth.alive(5).sum(axis=1)
    for name, chosen in {"initialisation": truth.emergence == 0, "emergent": truth.emergence > 0}.items():
        assert lives[name].tolist() == np.bincount(lived_G[chosen], minlength=6)[1:].tolist()

    ends = tables["rotation"].query("step == 0 and other_step == 8").set_index(["class", "metric"])["value"]
    there = (truth.emergence == 0) & (truth.death == 5)
    expected = np.cos(np.radians(truth.angle[there]))
    assert set(expected.round(9)) == {0.0, 1.0}
    assert ends["initialisation", "cosine"] == pytest.approx(expected.mean(), abs=1e-7)
    assert ends["initialisation", "features"] == ends["all", "features"] == there.sum()
    error = expected.std(ddof=1) / len(expected) ** 0.5
    assert ends["initialisation", "cosine_standard_error"] == pytest.approx(error, abs=1e-7)
    assert ends["emergent", "features"] == 0
    assert np.isnan(ends["emergent", "cosine"])


def test_tables_are_what_numpy_computes_and_leave_out_dead_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = tuple(Site("neox", step, HOOK) for step in (0, 1, 10))
    W_LSD = np.random.default_rng(2).standard_normal((60, 3, 8)).astype(np.float32)
    W_LSD *= np.random.default_rng(3).random((60, 3, 1)).astype(np.float32)
    table = features(tmp_path, np.linalg.norm(W_LSD.astype(np.float64), axis=2), dead=0.3, sites=sites)
    dictionary = write_run(tmp_path, torch.from_numpy(W_LSD), sites)
    write_geometry(dictionary, table, tmp_path / "whole")
    monkeypatch.setattr(geometry_tables, "BLOCK", 70)
    write_geometry(dictionary, table, tmp_path / "blocks")
    tables, known = read(tmp_path / "whole"), pq.read_table(table).to_pandas()
    for name, in_blocks in read(tmp_path / "blocks").items():
        assert list(in_blocks.columns[:12]) == list(COLUMNS)
        assert (in_blocks["tokens"] == ROWS).all()
        pd.testing.assert_frame_equal(in_blocks, tables[name], rtol=1e-12)

    alive = known[~known["dead"]]
    W = W_LSD.astype(np.float64)[alive["feature"]]
    unit = W / np.linalg.norm(W, axis=2, keepdims=True)
    rotation = tables["rotation"].set_index(["class", "metric", "step", "other_step"])["value"]
    for name in ("all", "initialisation", "emergent"):
        of_class = unit[(alive["class"] == name).to_numpy() | (name == "all")]
        for here, there in ((0, 1), (0, 2), (1, 2)):
            cosine_L = (of_class[:, here] * of_class[:, there]).sum(axis=1)
            pair = (sites[here].step, sites[there].step)
            assert rotation[(name, "cosine", *pair)] == pytest.approx(cosine_L.mean(), rel=1e-9)
            error = cosine_L.std(ddof=1) / len(cosine_L) ** 0.5
            assert rotation[(name, "cosine_standard_error", *pair)] == pytest.approx(error, rel=1e-9)
            assert rotation[(name, "features", *pair)] == len(cosine_L)
    assert len(rotation) == 3 * 3 * 3
    shares = tables["dimensionality"].set_index("step")["value"]
    expected = [dimensionality_of_all_pairs(W[:, site]) / 8 for site in range(3)]
    assert shares.loc[[0, 1, 10]].to_numpy() == pytest.approx(expected, rel=1e-12)
    counts = tables["classes"]
    assert counts.loc[counts["metric"] == "dead", "value"].tolist() == [18]
    assert set(counts.groupby("threshold")["value"].sum()) == {42}
    at_tau = counts[counts["threshold"] == 0.5].set_index("metric")["value"]
    assert at_tau[["lasting", "transient"]].sum() == (alive["class"] == "emergent").sum()


def test_a_run_without_a_living_feature_has_tables_too(tmp_path: Path) -> None:
    sites = tuple(Site("neox", step, HOOK) for step in (0, 1))
    table = features(tmp_path, np.ones((6, 2)), dead=1.0, sites=sites)
    write_geometry(write_run(tmp_path, torch.randn(6, 2, 4), sites), table, tmp_path / "metrics")
    tables = read(tmp_path / "metrics")
    assert tables["dimensionality"]["value"].tolist() == [0, 0]
    assert tables["persistence"]["value"].sum() == 0
    assert tables["rotation"].query("metric == 'features'")["value"].tolist() == [0, 0, 0]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    sites = tuple(Site("neox", step, HOOK) for step in (0, 1))
    table = features(tmp_path, np.ones((6, 2)), dead=0, sites=sites)
    other = write_run(tmp_path, torch.randn(6, 2, 4), sites, "latents6-k2-seed0")
    with pytest.raises(UserError, match=r"it is not of the run in .*latents6-k2-seed0; run the rule 'features' again"):
        write_geometry(other, table, tmp_path)
    (other / "crosscoder.safetensors").unlink()
    single = features(tmp_path / "single", np.ones((6, 1)), dead=0, sites=sites[:1])
    result = script(
        "geometry.py", "--dictionary", write_run(tmp_path / "single", torch.randn(6, 1, 4), sites[:1]),
        "--features", single, "--out", tmp_path / "metrics",
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "the run has one site; geometry compares the sites of a run, expected several" in line
    assert not (tmp_path / "metrics").exists()
    run = write_run(tmp_path, torch.randn(6, 2, 4), sites)
    (run / "crosscoder.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"crosscoder\.safetensors: cannot be read"):
        write_geometry(run, table, tmp_path)
