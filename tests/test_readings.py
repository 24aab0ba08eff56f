"""What each site adds to features, in the tables of samples."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_study import SITES, make_rows, make_shards, make_tokens, random_crosscoder, save
from numpy.typing import NDArray

from ontogeny.activations.rows import read_rows
from ontogeny.config.evaluation import FeatureSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.features import write_features
from ontogeny.evaluation.readings import UNREAD, quantised, readings
from ontogeny.evaluation.text_windows import Windows
from ontogeny.sites import Site

D_MODEL = 6
SHARDS = ("heldout-00000", "heldout-00001")
SETTINGS = FeatureSettings(samples=3, window=4, quantiles=3, quantile_samples=2)
OTHERS = (Site("one", 4, "blocks.0.hook_resid_post"), Site("two", 4, "blocks.1.hook_resid_post"))


def site_sums(crosscoder: Crosscoder, x_RSD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute W_enc[s]^T x_s of all rows in float64 (shape: [R, S, L])."""
    a_S1 = crosscoder.scales.double().numpy()[:, None]
    x_RSD = a_S1 * (x_RSD.astype(np.float64) - crosscoder.centers.double().numpy())
    return np.einsum("rsd,sdl->rsl", x_RSD, crosscoder.W_enc.detach().double().numpy())


@pytest.mark.parametrize(
    ("nonlinearity", "gate", "sites"),
    [("batchtopk", "shared", SITES), ("jumprelu", "site", SITES), ("relu", "shared", SITES[:1]), ("topk", "shared", OTHERS)],
)  # fmt: skip
def test_readings_are_what_each_site_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonlinearity: str, gate: str, sites: tuple[Site, ...]
) -> None:
    monkeypatch.setattr("ontogeny.evaluation.encoding.LARGEST_BLOCK", 7)
    monkeypatch.setattr("ontogeny.evaluation.samples.READINGS_AT_ONCE", 200)
    make_tokens(tmp_path)
    x_RSD = make_shards(tmp_path, make_rows(tmp_path, (30, 20)), D_MODEL, sites)
    crosscoder = random_crosscoder(D_MODEL, nonlinearity, gate, sites=sites)
    write_features(
        SETTINGS, save(tmp_path, crosscoder), tmp_path / "activations", SHARDS, tmp_path / "tokens/heldout.h5",
        tmp_path / "tokenizer/tokenizer.json", tmp_path, None,
    )  # fmt: skip
    table = pq.read_table(tmp_path / "samples.parquet")
    sums_RSL = site_sums(crosscoder, x_RSD)
    with torch.inference_mode():
        f = crosscoder.encode(torch.from_numpy(x_RSD)).numpy()
    f_RL = f.max(axis=1) if f.ndim == 3 else f
    rows = [read_rows(tmp_path / f"activations/rows/{shard}.h5") for shard in SHARDS]
    places = [place for shard in rows for place in zip(shard.context.tolist(), shard.position.tolist(), strict=True)]
    row_of = {place: row for row, place in enumerate(places)}
    groups = set()
    for sample in table.to_pylist():
        groups.add(sample["quantile"])
        reading_ST = np.frombuffer(sample["readings"], np.int8).reshape(len(sites), -1)
        assert reading_ST.shape[1] == len(sample["tokens"])
        known = [row_of.get((sample["context"], sample["start"] + t)) for t in range(reading_ST.shape[1])]
        assert [(column == UNREAD).all() for column in reading_ST.T] == [row is None for row in known]
        read = [t for t, row in enumerate(known) if row is not None]
        expected_ST = sums_RSL[[known[t] for t in read], :, sample["feature"]].T
        scale = sample["readings_scale"]
        assert scale == pytest.approx(np.abs(expected_ST).max() / 127, rel=1e-4)
        assert np.abs(reading_ST[:, read] * scale - expected_ST).max() <= 0.501 * scale
        own = read.index(sample["position"] - sample["start"])
        h = expected_ST[:, own].sum() + crosscoder.b_enc.double()[sample["feature"]].item()
        assert h == pytest.approx(sample["activation"], rel=1e-4), "the activation is h where a feature fires"
        assert f_RL[known[read[own]], sample["feature"]] == pytest.approx(sample["activation"], rel=1e-5)
    assert groups == {None, 0, 1, 2}
    with h5py.File(tmp_path / "tokens/heldout.h5") as file:
        assert len(places) < file["length"][()].sum(), "no position is left unread"


def test_a_pair_that_is_asked_for_twice_is_answered_twice() -> None:
    chance = torch.Generator().manual_seed(0)
    W_LSD, x_BSD = torch.randn(9, 3, 5, generator=chance), torch.randn(4, 3, 5, generator=chance)
    row_N, latent_N = torch.tensor([3, 0, 3, 3, 1]), torch.tensor([8, 2, 8, 1, 2])
    expected_NS = (W_LSD[latent_N].double() * x_BSD[row_N].double()).sum(2)
    torch.testing.assert_close(readings(W_LSD, x_BSD, row_N, latent_N).double(), expected_NS, rtol=1e-5, atol=1e-5)
    assert readings(W_LSD, x_BSD, row_N[:0], latent_N[:0]).shape == (0, 3)


def test_quantised_by_hand() -> None:
    """Two samples at two sites: windows of three tokens and of one, which holds nothing but zeros."""
    reading_NS = np.array([[1.27, -2.54], [0.0, 0.0], [0.026, 0.0], [0.0, 0.0]], np.float32)
    windows = Windows(np.array([0, 1]), np.array([0, 5]), np.array([0, 3, 4]))
    cells, scales = quantised(reading_NS, np.array([False, True, False, False]), windows)
    assert np.frombuffer(cells[0].as_py(), np.int8).tolist() == [64, UNREAD, 1, -127, UNREAD, 0]
    assert np.frombuffer(cells[1].as_py(), np.int8).tolist() == [0, 0]
    assert scales.tolist() == [pytest.approx(0.02), 0.0]
