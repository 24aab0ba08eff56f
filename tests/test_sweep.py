"""Runs that are trained side by side: each is the run that it would be alone, and a killed sweep goes on."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosscoder_runs import JUMPRELU, bytes_of, planted, run_settings, sites_of, write_activations
from torch import Tensor

from ontogeny.activations.reader import Batch, Reader
from ontogeny.config.dictionaries import RunSettings, SweepSettings
from ontogeny.crosscoder.model import load_crosscoder
from ontogeny.crosscoder.one_by_one import OneByOne
from ontogeny.crosscoder.state import Interrupted
from ontogeny.crosscoder.sweep import Sweep
from ontogeny.crosscoder.sweep_trainer import train_sweep
from ontogeny.crosscoder.trainer import train
from ontogeny.errors import UserError

ROWS, STEPS = 8192, 128
PLAIN: dict[str, Any] = {"nonlinearity": "relu", "penalty": "l1", "initialisation": "independent", "log_every": 100}
RECIPES: dict[str, dict[str, Any]] = {
    "toy": {"decoder": "unit", "gradient_clip": None, "warmup": 0.0, "decay": 0.0, "sparsity_warmup": 0.0, "epochs": 2},
    "clipped": {"decoder": "free", "gradient_clip": 0.5, "site_error": "mean"},
    "centred": {"decoder": "unit", "center": True, "betas": (0.8, 0.99)},
}
COMMON: dict[str, Any] = {"batch_size": 64, "log_every": 20, "save_every": 50}
ONE_BY_ONE: dict[str, dict[str, Any]] = {
    "topk": {
        "nonlinearity": "topk",
        "dead": {"policy": "auxk", "after_rows": 512, "k": 8},
        "decoder": "unit",
        "pre_bias": True,
        "precision": "bfloat16",
        "epochs": 2,
    },
    "batchtopk": {"nonlinearity": "batchtopk", "decoder_norm": "search", "shared": {"share": 0.5}},
    "site": {**JUMPRELU, "gate": "site"},
    "resampled": {
        **JUMPRELU,
        "dead": {"policy": "resample", "interval": 30, "times": 2, "candidates": 512},
        "density_histograms": 3,
        "density_rows": 256,
    },
}
"""Recipes that share no products."""


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_activations(tmp_path_factory.mktemp("activations"), planted(ROWS, sites=2).raw_BSD, ROWS)


def sweep_runs(sites: int = 1, **changes: Any) -> list[RunSettings]:
    """Describe six runs: three sizes, two coefficients."""
    plain = {**PLAIN, "k": None, "batch_size": 64, **changes}
    return swept_runs(sites, plain, latents=(6, 24, 40), k=None, sparsity=(0.3, 3.0))


def one_by_one_runs(recipe: str, **changes: Any) -> list[RunSettings]:
    """Describe four runs over two sites: two sizes, two coefficients or numbers of latents."""
    settings = {**COMMON, **ONE_BY_ONE[recipe], **changes}
    counts = settings["nonlinearity"] != "jumprelu"
    swept = {"k": (2, 4), "sparsity": None} if counts else {"k": None, "sparsity": (0.03, 0.3)}
    return swept_runs(2, settings, latents=(24, 40), **swept)


def swept_runs(sites: int, settings: dict[str, Any], **swept: Any) -> list[RunSettings]:
    """Describe every run of a sweep."""
    one = run_settings(ROWS, sites=sites, **settings)
    keys = set(SweepSettings.model_fields) - set(swept)
    sweep = SweepSettings.model_validate({**one.model_dump(include=keys), "sites": one.sites, **swept})
    return list(sweep.runs([0]).values())


@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_of_a_sweep_is_the_run_trained_alone(activations: Path, tmp_path: Path, recipe: str, sites: int) -> None:
    runs = sweep_runs(sites, **RECIPES[recipe])
    train_sweep(runs, activations, tmp_path / "state", tmp_path / "together")
    differences = []
    for run in runs:
        train(run, activations, tmp_path / "state", tmp_path / "alone" / run.run)
        alone, together = (load_crosscoder(tmp_path / kind / run.run) for kind in ("alone", "together"))
        assert alone.scales.tolist() == together.scales.tolist()
        pairs = zip(alone.parameters(), together.parameters(), strict=True)
        differences.append(max((expected - found).abs().max().item() for expected, found in pairs))
        logs = [pd.read_csv(tmp_path / kind / run.run / "training.csv") for kind in ("alone", "together")]
        assert logs[0].columns.tolist() == logs[1].columns.tolist()
        assert logs[0]["step"].tolist() == [1, 100, *([200, 256] if recipe == "toy" else [128])]
        np.testing.assert_allclose(logs[1], logs[0], rtol=1e-3, atol=1e-4)
        configs = [(tmp_path / kind / run.run / "config.json").read_bytes() for kind in ("alone", "together")]
        assert configs[0] == configs[1]
    # A pre-activation that rounding carries over 0 makes Adam turn round for a latent that is next to dead.
    assert np.median(differences) < 1e-5
    assert max(differences) < 5e-3


@pytest.mark.parametrize("recipe", ONE_BY_ONE)
def test_runs_that_share_no_products_have_the_bytes_of_runs_trained_alone(
    activations: Path, tmp_path: Path, recipe: str
) -> None:
    runs = one_by_one_runs(recipe)
    cost = train_sweep(runs, activations, tmp_path / "state", tmp_path / "together")
    assert cost == {"rows": ROWS * runs[0].epochs, "rows x runs": 4 * ROWS * runs[0].epochs}
    for run in runs:
        train(run, activations, tmp_path / "state", tmp_path / "alone" / run.run)
        assert bytes_of(tmp_path / "together" / run.run) == bytes_of(tmp_path / "alone" / run.run)
    moments = pd.read_csv(tmp_path / "together" / runs[-1].run / "density.csv").groupby(["step", "moment"]).ngroups
    assert moments == (2 * 2 + 3 if recipe == "resampled" else 0)


def test_samples_are_read_once_for_all_runs(activations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three histograms, and for each of two resamplings the candidates and the rows of two more."""
    runs, samples, sample = one_by_one_runs("resampled"), Counter[int](), Reader.sample

    def counted(self: Reader, rows: int, counter: int) -> Iterator[Batch]:
        samples[rows] += 1
        return sample(self, rows, counter)

    monkeypatch.setattr(Reader, "sample", counted)
    train_sweep(runs, activations, tmp_path / "state", tmp_path)
    assert samples == {256: 3 + 2 * 2, 512: 2}


@pytest.mark.parametrize("recipe", ["plain", *ONE_BY_ONE])
def test_a_killed_sweep_goes_on_to_the_same_bytes(
    activations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    plain = recipe == "plain"
    runs = sweep_runs(save_every=50) if plain else one_by_one_runs(recipe, epochs=1)
    kind: type[Sweep | OneByOne] = Sweep if plain else OneByOne
    train_sweep(runs, activations, tmp_path / "state", tmp_path / "whole")
    step = kind.step

    def stopping(self: Sweep | OneByOne, raw_BSD: Tensor, logged: bool) -> list[dict[str, float]]:
        if self.steps_done == 70:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, raw_BSD, logged)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(kind, "step", stopping)
        train_sweep(runs, activations, tmp_path / "state", tmp_path / "resumed")
    assert [file.name for file in sorted((tmp_path / "state").iterdir())][-1] == "state-000000071.safetensors"
    assert not (tmp_path / "resumed").exists()
    with monkeypatch.context() as patched:
        # What was saved has no use for first weights, and so none for the first batch, for which models may have to run.
        patched.delattr(Reader, "read")
        cost = train_sweep(runs, activations, tmp_path / "state", tmp_path / "resumed")
    assert cost["rows"] == (STEPS - 71) * 64
    assert not (tmp_path / "state").exists()
    for run in runs:
        assert bytes_of(tmp_path / "resumed" / run.run) == bytes_of(tmp_path / "whole" / run.run)


def test_a_run_that_is_not_finite_is_named(activations: Path, tmp_path: Path) -> None:
    runs = sweep_runs()
    runs[3] = runs[3].model_copy(update={"sparsity": 1e39})
    with pytest.raises(UserError, match=rf"step 1 of {STEPS}: .* in 1 of 6 runs, first of all {runs[3].run}, on rows"):
        train_sweep(runs, activations, tmp_path / "state", tmp_path / "together")
    assert not (tmp_path / "together").exists()


def test_a_run_that_is_not_finite_is_named_among_others_that_are(activations: Path, tmp_path: Path) -> None:
    runs = one_by_one_runs("site")
    runs[3] = runs[3].model_copy(update={"sparsity": 1e39})
    # The coefficient rises from 0, so that the first step is finite.
    line = rf"step 2 of {STEPS}: .* in 1 of 4 runs, first of all {runs[3].run}, on rows .* or take sweep: apart"
    with pytest.raises(UserError, match=line):
        train_sweep(runs, activations, tmp_path / "state", tmp_path / "together")
    assert not (tmp_path / "together").exists()


def test_sizes_of_independent_runs_start_from_other_directions(activations: Path, tmp_path: Path) -> None:
    small, large = (run for run in sweep_runs(learning_rate=1e-30) if run.sparsity == 3.0 and run.latents > 6)
    train_sweep([small, large], activations, tmp_path / "state", tmp_path)
    first, second = (load_crosscoder(tmp_path / run.run).W_dec[:24, 0].detach() for run in (small, large))
    assert torch.nn.functional.cosine_similarity(first, second).abs().max() < 0.99
    assert small.sites == sites_of(1)
