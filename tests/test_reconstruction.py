from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_study import (
    SITES,
    constant,
    identity,
    make_rows,
    make_shards,
    make_tokens,
    random_crosscoder,
    save,
    script,
)
from numpy.typing import NDArray

from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation import encoding
from ontogeny.evaluation.reconstruction import write_reconstruction
from ontogeny.evaluation.tables import COLUMNS

D_MODEL = 6
ROWS = 70


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    folder = tmp_path_factory.mktemp("study")
    make_tokens(folder)
    return folder, make_shards(folder, make_rows(folder, (45, 25)), D_MODEL)


SHARDS = ("heldout-00000", "heldout-00001")


def measured(folder: Path, crosscoder: Crosscoder, out: Path) -> pd.DataFrame:
    write_reconstruction(save(out, crosscoder), folder / "activations", SHARDS, out / "reconstruction.csv")
    return pd.read_csv(out / "reconstruction.csv")


def values(table: pd.DataFrame, metric: str) -> list[float]:
    """Values of a metric at each site."""
    return list(table[(table.metric == metric) & table.step.notna()].sort_values("step").value)


def pooled(table: pd.DataFrame, metric: str) -> float:
    return float(table[(table.metric == metric) & table.step.isna()].value.item())


def test_the_identity_loses_nothing(study: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    folder, x_BSD = study
    table = measured(folder, identity(D_MODEL), tmp_path)
    assert values(table, "fvu") == pytest.approx([0.0, 0.0], abs=1e-12)
    assert values(table, "explained_variance") == pytest.approx([1.0, 1.0], abs=1e-12)
    assert pooled(table, "l0") == pytest.approx((x_BSD != 0).sum() / ROWS)


def test_the_mean_explains_nothing(study: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    folder, x_BSD = study
    table = measured(folder, constant(x_BSD.mean(0, dtype=np.float64)), tmp_path)
    assert values(table, "fvu") == pytest.approx([1.0, 1.0], abs=1e-6)
    assert pooled(table, "explained_variance") == pytest.approx(0.0, abs=1e-6)
    assert (pooled(table, "dead"), pooled(table, "l0"), values(table, "l0")) == (1.0, 0.0, [0.0, 0.0])


@pytest.mark.parametrize(
    ("nonlinearity", "gate"),
    [("relu", "shared"), ("topk", "shared"), ("batchtopk", "shared"), ("jumprelu", "shared"), ("jumprelu", "site")],
)
def test_the_table_holds_what_numpy_computes(
    study: tuple[Path, NDArray[np.float32]], tmp_path: Path, nonlinearity: str, gate: str
) -> None:
    folder, x_BSD = study
    crosscoder = random_crosscoder(D_MODEL, nonlinearity, gate)
    table = measured(folder, crosscoder, tmp_path)
    with torch.inference_mode():
        f = crosscoder.encode(torch.from_numpy(x_BSD))
        x_hat_BSD = crosscoder.decode(f).double().numpy()
    error_S = ((x_BSD.astype(np.float64) - x_hat_BSD) ** 2).sum((0, 2))
    spread_S = ((x_BSD.astype(np.float64) - x_BSD.mean(0, dtype=np.float64)) ** 2).sum((0, 2))
    weights_S = crosscoder.scales.double().numpy() ** 2
    f_BSL = (f if gate == "site" else f[:, None].expand(-1, 2, -1)).numpy()
    assert values(table, "fvu") == pytest.approx(list(error_S / spread_S), rel=1e-5)
    assert pooled(table, "fvu") == pytest.approx((weights_S @ error_S) / (weights_S @ spread_S), rel=1e-5)
    assert values(table, "l0") == pytest.approx(list((f_BSL != 0).sum(2).mean(0)))
    assert pooled(table, "l0") == pytest.approx((f_BSL != 0).sum(2).mean())
    assert pooled(table, "dead") == pytest.approx((f_BSL == 0).all((0, 1)).mean())
    assert pooled(table, "dead") >= 1 / 40
    assert set(table.tokens) == {ROWS}
    if nonlinearity == "topk":
        assert values(table, "l0") == [5.0, 5.0]
    if gate == "site":
        assert values(table, "l0")[0] != values(table, "l0")[1]


def test_blocks_of_rows_change_nothing(
    study: tuple[Path, NDArray[np.float32]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = study
    crosscoder = random_crosscoder(D_MODEL, "batchtopk")
    whole = measured(folder, crosscoder, tmp_path / "whole")
    monkeypatch.setattr("ontogeny.evaluation.encoding.LARGEST_BLOCK", 7)
    parts = measured(folder, crosscoder, tmp_path / "parts")
    assert whole.value.to_numpy() == pytest.approx(parts.value.to_numpy(), rel=1e-6)


def test_the_command_writes_the_same_bytes(study: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    folder, _ = study
    crosscoder = random_crosscoder(D_MODEL, "jumprelu", "site")
    table = measured(folder, crosscoder, tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 3 + 3 + 1
    made = script(
        "reconstruction.py", "--dictionary", tmp_path / "dictionaries/crosscoder/run", "--activations",
        folder / "activations", "--shards", *SHARDS, "--out", tmp_path / "again.csv",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "reconstruction.csv").read_bytes()


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    make_tokens(tmp_path)
    make_shards(tmp_path, make_rows(tmp_path, (45, 25)), D_MODEL)
    shard = tmp_path / f"activations/{SITES[1].key}/heldout-00001.h5"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"step4/.*heldout-00001.h5"):
        measured(tmp_path, identity(D_MODEL), tmp_path)
    assert not (tmp_path / "reconstruction.csv").exists()


def test_rows_without_variance_are_refused(tmp_path: Path) -> None:
    make_tokens(tmp_path)
    make_shards(tmp_path, make_rows(tmp_path, (1,)), D_MODEL)
    dictionary = save(tmp_path, identity(D_MODEL))
    with pytest.raises(UserError, match="all 1 heldout rows are equal, so FVU is not defined"):
        write_reconstruction(dictionary, tmp_path / "activations", SHARDS[:1], tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("nonlinearity", "gate"), [("batchtopk", "shared"), ("jumprelu", "shared"), ("jumprelu", "site")]
)
@pytest.mark.parametrize("few", [0.0, 1.0])
def test_decoding_what_fires_is_decoding(
    nonlinearity: str, gate: str, few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "FEW", dict.fromkeys(encoding.FEW, few))
    crosscoder = random_crosscoder(D_MODEL, nonlinearity, gate).requires_grad_(False)
    x_BSD = torch.randn(9, len(SITES), D_MODEL, generator=torch.Generator().manual_seed(0)) * 3
    f = crosscoder.encode(x_BSD)
    f[:2], f[-1:] = 0.0, 0.0  # rows without a feature, at both ends
    assert 0 < f.count_nonzero() < f.numel()
    torch.testing.assert_close(encoding.decode(crosscoder, f), crosscoder.decode(f), rtol=1e-5, atol=1e-5)
    silent = torch.zeros_like(f)
    torch.testing.assert_close(encoding.decode(crosscoder, silent), crosscoder.decode(silent))
