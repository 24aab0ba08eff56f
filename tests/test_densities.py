"""How often latents fire is counted as a plain loop counts it, over training and around resamplings."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosscoder_runs import planted, run_settings, stepper_of, train_small, write_activations

from ontogeny.crosscoder.resampling import resample
from ontogeny.densities import COLUMNS, EDGES, density_due, density_rows
from ontogeny.randomness import generator

ROWS = 4096
RESAMPLING: dict[str, Any] = {
    "nonlinearity": "relu",
    "k": None,
    "penalty": "l1",
    "sparsity": 0.3,
    "decoder": "unit",
    "epochs": 6,
    "dead": {"policy": "resample", "interval": 40, "times": 4, "candidates": 1024},
    "density_histograms": 2,
    "density_rows": 1024,
}


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_activations(tmp_path_factory.mktemp("activations"), planted(ROWS).raw_BSD, ROWS)


def test_a_histogram_has_every_latent_in_one_bin() -> None:
    firings_L = np.array([0, 0, 1, 10, 100, 101, 1000])
    table = pd.DataFrame(density_rows(firings_L, 1000, 7, "before")).replace("", "silent").astype({"latents": int})
    assert list(table.columns) == list(COLUMNS)
    assert (set(table.step), set(table.moment), set(table.rows)) == ({"7"}, {"before"}, {"1000"})
    filled = table[table.latents > 0].set_index("low").latents
    assert filled.to_dict() == {"silent": 2, "-3": 1, "-2": 1, "-1": 2, "-0.25": 1}


def test_histograms_are_spaced_evenly_and_end_with_the_run() -> None:
    assert [step for step in range(1, 11) if density_due(step, 10, 4)] == [3, 5, 8, 10]
    assert not any(density_due(step, 10, 0) for step in range(1, 11))


@pytest.mark.parametrize(
    "recipe",
    [
        {"nonlinearity": "relu", "k": None, "penalty": "l1", "sparsity": 0.1},
        {},
        {"nonlinearity": "batchtopk"},
        {"nonlinearity": "jumprelu", "k": None, "penalty": "tanh", "sparsity": 0.1},
        {"nonlinearity": "jumprelu", "gate": "site", "k": None, "penalty": "tanh", "sparsity": 0.1},
    ],
    ids=["relu", "topk", "batchtopk", "jumprelu", "site"],
)
def test_firings_are_the_rows_where_the_code_is_not_zero(activations: Path, recipe: dict[str, Any]) -> None:
    stepper, reader = stepper_of(activations, run_settings(ROWS, **{"k": 2, **recipe}))
    for step in range(8):
        stepper.step(reader.read(step).raw_BSD, logged=False)
    raw_BSD = reader.read(8).raw_BSD
    h_BL = stepper.objective(stepper.crosscoder.scaled(raw_BSD), 0.0, stepper.dead_N[:0]).h_BL.detach().double()
    norms_LS = stepper.crosscoder.W_dec.detach().norm(dim=2).double()
    if stepper.settings.gate == "site":
        fires_BL = (h_BL[:, :, None] * norms_LS > stepper.crosscoder.thresholds()[:, None]).any(2)
    elif stepper.settings.nonlinearity in ("topk", "batchtopk"):
        score_BL = h_BL.clamp_min(0) * norms_LS.sum(1)
        kept = 2 if stepper.settings.nonlinearity == "topk" else 2 * len(raw_BSD)
        groups = score_BL if kept == 2 else score_BL.reshape(1, -1)
        least = groups.topk(kept, dim=1).values[:, -1:]
        fires_BL = ((groups >= least) & (groups > 0)).view_as(score_BL)
    else:
        threshold_L = stepper.crosscoder.thresholds() if stepper.settings.nonlinearity == "jumprelu" else 0
        fires_BL = h_BL * norms_LS.sum(1) > threshold_L
    assert torch.equal(stepper.firings(raw_BSD), fires_BL.sum(0))


def test_a_run_keeps_histograms_over_training_and_around_each_resampling(activations: Path, tmp_path: Path) -> None:
    train_small(tmp_path, run_settings(ROWS, **RESAMPLING), activations)
    table = pd.read_csv(tmp_path / "run/density.csv")
    moments = table.groupby(["step", "moment"], sort=False).latents.sum()
    assert list(moments.index) == [
        *((step, moment) for step in (40, 80) for moment in ("before", "after")),
        (96, "training"),
        *((step, moment) for step in (120, 160) for moment in ("before", "after")),
        (192, "training"),
    ]
    assert set(moments) == {32}
    assert set(table.rows) == {1024}
    assert len(table) == 10 * len(EDGES)
    assert "moment" not in pd.read_csv(tmp_path / "run/training.csv")


def test_a_run_without_histograms_has_an_empty_table(activations: Path, tmp_path: Path) -> None:
    train_small(tmp_path, run_settings(ROWS), activations)
    assert list(pd.read_csv(tmp_path / "run/density.csv").columns) == list(COLUMNS)
    assert len(pd.read_csv(tmp_path / "run/density.csv")) == 0


def test_planted_dead_neurons_come_back_and_stand_for_planted_features(activations: Path) -> None:
    """Half of the latents cannot fire; after a resampling they do, and find features that nobody stood for."""
    dead, found = list(range(16, 32)), {}
    true_GM = planted(1).directions_GSD.reshape(24, -1)
    true_GM = true_GM / np.linalg.norm(true_GM, axis=1, keepdims=True)
    for policy in ("none", "resample"):
        recipe = {**RESAMPLING, "epochs": 16, "dead": {**RESAMPLING["dead"], "policy": policy}}
        settings = run_settings(ROWS, **recipe)
        stepper, reader = stepper_of(activations, settings)
        with torch.no_grad():
            stepper.crosscoder.b_enc[dead] = -1e3
        for step in range(reader.steps):
            if policy == "resample" and step == 100:
                assert (stepper.firings(reader.read(0).raw_BSD)[dead] == 0).all()
                raw_batches = [batch.raw_BSD for batch in reader.sample(1024, 0)]
                assert resample([stepper], raw_batches, generator(0, "test")) == [16]
                assert (stepper.firings(reader.read(0).raw_BSD)[dead] > 0).all()
            stepper.step(reader.read(step).raw_BSD, logged=False)
        learnt_LM = stepper.crosscoder.W_dec.detach().flatten(1).double().numpy()
        learnt_LM = learnt_LM / np.linalg.norm(learnt_LM, axis=1, keepdims=True)
        fires_L = (stepper.firings(torch.from_numpy(planted(ROWS).raw_BSD)) > 0).numpy()
        cosine_LG = np.where(fires_L[:, None], learnt_LM @ true_GM.T, -1)
        found[policy] = fires_L[dead].sum(), (cosine_LG.max(0) > 0.9).sum()
    assert found["none"][0] == 0
    assert found["none"][1] <= 16 < found["resample"][1] == 24
    assert found["resample"][0] >= 12
