"""Runs that are trained side by side: each is the run that it would be alone, and a killed sweep goes on."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosscoder_runs import bytes_of, planted, run_settings, sites_of, write_activations
from torch import Tensor

from ontogeny.config.dictionaries import RunSettings, SweepSettings
from ontogeny.crosscoder.model import load_crosscoder
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


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_activations(tmp_path_factory.mktemp("activations"), planted(ROWS, sites=2).raw_BSD, ROWS)


def sweep_runs(sites: int = 1, **changes: Any) -> list[RunSettings]:
    """Describe six runs: three sizes, two coefficients."""
    one = run_settings(ROWS, sites=sites, **{**PLAIN, "k": None, "batch_size": 64, **changes})
    swept = {"latents": (6, 24, 40), "k": None, "sparsity": (0.3, 3.0)}
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


def test_a_killed_sweep_goes_on_to_the_same_bytes(
    activations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = sweep_runs(save_every=50)
    train_sweep(runs, activations, tmp_path / "state", tmp_path / "whole")
    step = Sweep.step

    def stopping(self: Sweep, raw_BSD: Tensor, logged: bool) -> list[dict[str, float]]:
        if self.steps_done == 70:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, raw_BSD, logged)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Sweep, "step", stopping)
        train_sweep(runs, activations, tmp_path / "state", tmp_path / "resumed")
    assert [file.name for file in sorted((tmp_path / "state").iterdir())][-1] == "state-000000071.safetensors"
    assert not (tmp_path / "resumed").exists()
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


def test_sizes_of_independent_runs_start_from_other_directions(activations: Path, tmp_path: Path) -> None:
    small, large = (run for run in sweep_runs(learning_rate=1e-30) if run.sparsity == 3.0 and run.latents > 6)
    train_sweep([small, large], activations, tmp_path / "state", tmp_path)
    first, second = (load_crosscoder(tmp_path / run.run).W_dec[:24, 0].detach() for run in (small, large))
    assert torch.nn.functional.cosine_similarity(first, second).abs().max() < 0.99
    assert small.sites == sites_of(1)
