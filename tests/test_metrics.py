import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.errors import UserError
from ontogeny.evaluation.losses import VARIANTS, LossSums, recovered, site_losses_of
from ontogeny.evaluation.metrics import ActivityCounts, ReconstructionSums
from ontogeny.evaluation.tables import COLUMNS, Measurement, RunIdentity, metrics_table, read_identity
from ontogeny.files import write_csv
from ontogeny.sites import Site

EARLY, LATE = Site("neox", 8, "blocks.2.hook_resid_post"), Site("neox", 16, "blocks.2.hook_resid_post")


def activations(rows: int = 600, mean: float = 0.0, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).normal(mean, 1.0, (rows, 3, 8)) * np.array([1.0, 5.0, 0.1])[:, None]
    return torch.from_numpy(values).float()


def summed(x_BSD: Tensor, x_hat_BSD: Tensor, batches: Sequence[int] = (600,)) -> ReconstructionSums:
    sums = ReconstructionSums(x_BSD.shape[1], x_BSD.shape[2])
    parts = (torch.split(values, list(batches)) for values in (x_BSD, x_hat_BSD))
    for x, x_hat in zip(*parts, strict=True):
        sums.add(x, x_hat)
    return sums


def numpy_fvu(x_BSD: Tensor, x_hat_BSD: Tensor) -> NDArray[np.float64]:
    x, x_hat = (values.double().numpy() for values in (x_BSD, x_hat_BSD))
    fvu: NDArray[np.float64] = ((x - x_hat) ** 2).sum((0, 2)) / ((x - x.mean(0)) ** 2).sum((0, 2))
    return fvu


def test_fvu_by_hand() -> None:
    # Site 0: values 1, 3 (mean 2, spread 2), errors 1 and 0. Site 1: values 0, 10 (mean 5, spread 50), errors 1 and 2.
    x_BSD = torch.tensor([[[1.0], [0.0]], [[3.0], [10.0]]])
    x_hat_BSD = torch.tensor([[[2.0], [1.0]], [[3.0], [8.0]]])
    sums = summed(x_BSD, x_hat_BSD, (2,))
    assert sums.fvu().tolist() == [1 / 2, 5 / 50]
    assert sums.pooled_fvu(torch.tensor([1.0, 1.0])) == pytest.approx((1 + 5) / (2 + 50))
    assert sums.pooled_fvu(torch.tensor([1.0, 0.2])) == pytest.approx((1 + 5 * 0.04) / (2 + 50 * 0.04))


def test_predicting_the_mean_gives_one_and_perfection_zero() -> None:
    x_BSD = activations(mean=3.0)
    mean = x_BSD.double().mean(0).expand(x_BSD.shape)
    scales_S = torch.tensor([1.0, 0.2, 10.0])
    for x_hat_BSD, expected in ((mean, 1.0), (x_BSD, 0.0)):
        sums = summed(x_BSD, x_hat_BSD)
        assert sums.fvu().numpy() == pytest.approx(expected, abs=1e-12)
        assert sums.pooled_fvu(scales_S) == pytest.approx(expected, abs=1e-12)


def test_a_constant_offset_is_penalised() -> None:
    x_BSD = activations()
    spread_S = (x_BSD - x_BSD.mean(0)).square().sum((0, 2))
    fvu_S = summed(x_BSD, x_BSD + 2.0).fvu()
    assert fvu_S.numpy() == pytest.approx((600 * 8 * 4.0 / spread_S).numpy(), rel=1e-5)


def test_fvu_is_no_mean_of_ratios() -> None:
    x_BSD = torch.tensor([[[0.0]], [[10.0]], [[5.0]]])
    x_hat_BSD = torch.tensor([[[0.0]], [[10.0]], [[4.0]]])
    assert summed(x_BSD, x_hat_BSD, (3,)).fvu().tolist() == [1 / 50]


@pytest.mark.parametrize("batches", [(1,) * 600, (7, 593), (300, 1, 299)])
def test_fvu_depends_on_neither_batches_nor_order(batches: tuple[int, ...]) -> None:
    x_BSD = activations(mean=100.0)
    x_BSD[300:] += 50.0
    x_hat_BSD = x_BSD + activations(seed=1) * 0.1
    order = torch.from_numpy(np.random.default_rng(2).permutation(600))
    expected = summed(x_BSD, x_hat_BSD).fvu().numpy()
    assert summed(x_BSD[order], x_hat_BSD[order], batches).fvu().numpy() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fvu_keeps_its_digits_far_from_zero(dtype: torch.dtype) -> None:
    x_BSD = activations(mean=1000.0).to(dtype)
    x_hat_BSD = (x_BSD.float() + activations(seed=1)).to(dtype)
    fvu_S = summed(x_BSD, x_hat_BSD, (64,) * 9 + (24,)).fvu().numpy()
    assert fvu_S == pytest.approx(numpy_fvu(x_BSD, x_hat_BSD), rel=1e-5)


def test_counts_under_a_shared_gate() -> None:
    counts = ActivityCounts(sites=2, latents=4)
    counts.add(torch.tensor([[0.0, 0.5, 1e-30, 0.0]]))
    counts.add(torch.tensor([[0.0, 0.5, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0]]))
    assert counts.l0().tolist() == [4 / 3, 4 / 3]
    assert counts.density().tolist() == [0.0, 1.0, 1 / 3, 0.0]
    assert counts.dead_share() == 0.5


def test_counts_under_a_gate_per_site() -> None:
    f_BSL = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]], [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])
    counts = ActivityCounts(sites=2, latents=3)
    counts.add(f_BSL)
    assert counts.l0().tolist() == [1 / 2, 3 / 2]
    assert counts.density().tolist() == [1.0, 1 / 2, 0.0]
    assert counts.dead_share() == 1 / 3


def test_recovered_by_hand() -> None:
    assert recovered(clean=4.0, reconstructed=4.5, ablated=6.0) == 0.75
    assert recovered(clean=4.0, reconstructed=4.0, ablated=6.0) == 1.0
    assert recovered(clean=4.0, reconstructed=6.0, ablated=6.0) == 0.0
    assert recovered(clean=4.0, reconstructed=8.0, ablated=6.0) == -1.0
    assert np.isnan(recovered(clean=4.0, reconstructed=4.5, ablated=4.0))


def test_losses_are_means_over_tokens_and_not_over_batches() -> None:
    sums = LossSums([EARLY])
    batches = {
        "clean": ([1.0, 2.0, 3.0], [6.0]),
        "reconstructed": ([2.0, 2.0, 3.0], [7.0]),
        "mean_ablated": ([4.0, 4.0, 4.0], [8.0]),
        "zero_ablated": ([9.0, 1.0, 5.0], [7.0]),
    }
    for variant, parts in batches.items():
        for part in parts:
            sums.add(EARLY, variant, torch.tensor(part))
    sums.tokens = [3, 1]
    values = {row.metric: row.value for row in site_losses_of(EARLY, sums.table())}
    assert values == {
        "nll_clean": 3.0,
        "nll_reconstructed": 3.5,
        "nll_mean_ablated": 5.0,
        "nll_zero_ablated": 5.5,
        "recovered_mean": 0.75,
        "recovered_zero": 0.8,
    }


def test_small_losses_are_not_lost_in_a_long_sum() -> None:
    sums = LossSums([EARLY])
    for variant in VARIANTS:
        for _ in range(100):
            sums.add(EARLY, variant, torch.full((4096,), 0.1))
    sums.tokens = [4096] * 100
    assert site_losses_of(EARLY, sums.table())[0].value == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_the_table_is_tidy_and_sorted_by_step(tmp_path: Path) -> None:
    identity = RunIdentity("crosscoder", "latents8-k2-seed0", 8, 2.0, 0)
    measurements = [
        Measurement(LATE, "l0", 1.5, 32),
        Measurement(LATE, "fvu", 0.2, 32),
        Measurement(EARLY, "l0", 2.5, 32),
        Measurement(EARLY, "fvu", 0.1, 32),
        Measurement(None, "fvu", 1 / 3, 32),
    ]
    write_csv(tmp_path / "table.csv", metrics_table(identity, measurements))
    assert (tmp_path / "table.csv").read_text().splitlines() == [
        ",".join(COLUMNS),
        "crosscoder,latents8-k2-seed0,8,2.0,0,,,,heldout,fvu,0.3333333333333333,32",
        "crosscoder,latents8-k2-seed0,8,2.0,0,neox,8,blocks.2.hook_resid_post,heldout,fvu,0.1,32",
        "crosscoder,latents8-k2-seed0,8,2.0,0,neox,8,blocks.2.hook_resid_post,heldout,l0,2.5,32",
        "crosscoder,latents8-k2-seed0,8,2.0,0,neox,16,blocks.2.hook_resid_post,heldout,fvu,0.2,32",
        "crosscoder,latents8-k2-seed0,8,2.0,0,neox,16,blocks.2.hook_resid_post,heldout,l0,1.5,32",
    ]
    assert pd.read_csv(tmp_path / "table.csv").step.tolist()[1:] == [8, 8, 16, 16]


def test_a_run_says_who_it_is_or_why_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json: no such file; expected the folder of a trained run"):
        read_identity(tmp_path)
    config = {"dictionary": "sae", "run": "latents8-k2-seed0", "latents": 8, "sparsity": 2.0, "seed": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_identity(tmp_path) == RunIdentity("sae", "latents8-k2-seed0", 8, 2.0, 1)
    (tmp_path / "config.json").write_text(json.dumps({"dictionary": "sae"}))
    with pytest.raises(UserError, match="key 'run' is missing; train the run again"):
        read_identity(tmp_path)
