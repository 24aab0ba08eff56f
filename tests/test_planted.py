"""What is planted is what was asked for: how many features are active, how strongly, when, and where they point."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from planted_runs import HOOK, planted_model, site_of, write_rows_file
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.numpy import load_file

from ontogeny.activations.planted import (
    BLOCK_ROWS,
    correlation_factor,
    planted_activations,
    planted_strengths,
    write_planted,
)
from ontogeny.activations.planted_features import (
    planted_directions,
    planted_features,
    truth_table,
    write_directions,
    write_truth,
)
from ontogeny.activations.rows import read_rows
from ontogeny.activations.store import open_aligned, open_shard
from ontogeny.config.models import PlantedModel
from ontogeny.errors import UserError

SHARD = "train-00000"
STEPS = [0, 1, 2, 4, 8]
EVOLVING = {"checkpoints": STEPS, "features": 40, "emergent": 0.25, "dying": 0.2, "rotating": 0.3, "rotation": 120}
ROWS = 40 * BLOCK_ROWS


def strengths(settings: PlantedModel, rows: int = ROWS, shard: str = SHARD) -> NDArray[np.float64]:
    return np.concatenate(list(planted_strengths(settings, shard, rows)))


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize(("active", "decay"), [(5.0, 0.99), (0.5, 0.9), (3.0, 1.0)])
def test_mean_number_of_active_features_is_what_was_asked_for(active: float, decay: float, correlated: bool) -> None:
    settings = planted_model(features=64, active=active, decay=decay, correlated=correlated)
    active_BG = strengths(settings) > 0
    count_B = active_BG.sum(axis=1)
    assert count_B.mean() == pytest.approx(active, abs=4 * count_B.std() / ROWS**0.5)
    probability_G = planted_features(settings).probability
    error_G = np.sqrt(probability_G * (1 - probability_G) / ROWS)
    assert probability_G.sum() == pytest.approx(active)
    assert probability_G[1:] / probability_G[:-1] == pytest.approx(decay)
    assert (np.abs(active_BG.mean(axis=0) - probability_G) < 5 * error_G).all()


@pytest.mark.parametrize("correlated", [False, True])
def test_strengths_are_uniform_once(correlated: bool) -> None:
    values = np.sort(strengths(planted_model(correlated=correlated)), axis=None)
    values = values[values > 0]
    ranks = np.arange(1, len(values) + 1) / len(values)
    distance = max((ranks - values).max(), (values - ranks + 1 / len(values)).max())
    # Kolmogorov and Smirnov: a distance above 1.95 / sqrt(n) has a chance of 0.001.
    assert len(values) > 100_000
    assert distance < 1.95 / len(values) ** 0.5
    products = np.sort(values * np.random.default_rng(0).random(len(values)))
    assert np.abs(ranks - products).max() > 0.3, "the test would not see a product of two uniform draws"


def test_correlated_features_are_active_together_and_others_are_not() -> None:
    between = {}
    for correlated in (False, True):
        active_BG = strengths(planted_model(features=16, active=3.0, decay=1.0, correlated=correlated)) > 0
        between[correlated] = np.corrcoef(active_BG.T)[~np.eye(16, dtype=bool)]
    assert np.abs(between[False]).max() < 5 / ROWS**0.5
    assert between[True].mean() > 0.02
    factor_GG = correlation_factor(planted_model(features=16, active=3.0, decay=1.0))
    scale_G = 1 / np.linalg.norm(factor_GG, axis=1)
    asked = (scale_G[:, None] * (factor_GG @ factor_GG.T) * scale_G)[~np.eye(16, dtype=bool)]
    assert np.corrcoef(asked, between[True])[0, 1] > 0.8


def test_covariance_is_positive_definite_with_entries_between_0_and_1() -> None:
    for features in (1, 2, 64):
        factor_GG = correlation_factor(planted_model(features=features, active=0.1))
        C_GG = factor_GG @ factor_GG.T
        apart = C_GG[~np.eye(features, dtype=bool)]
        assert ((apart > 0) & (apart < 1)).all()
        assert np.linalg.eigvalsh(C_GG)[0] > 0


def test_empty_rows_stay_empty() -> None:
    settings = planted_model(active=0.5)
    empty_B = ~(strengths(settings, 4096) > 0).any(axis=1)
    assert 0.5 < empty_B.mean() < 0.7
    assert (planted_activations(settings, site_of(0), SHARD, 4096)[empty_B] == 0).all()


def test_activations_are_the_float64_sum_of_what_was_planted() -> None:
    settings = planted_model(**EVOLVING, noise=0.1, correlated=True)
    rows = 2 * BLOCK_ROWS + 100
    clean = planted_model(**EVOLVING, correlated=True)
    strength_BG, directions_GSD = strengths(clean, rows), planted_directions(clean, HOOK)
    noises = []
    for number, step in enumerate(STEPS):
        expected_BD = np.zeros((rows, 64))
        for feature in range(40):
            expected_BD += strength_BG[:, feature, None] * directions_GSD[feature, number]
        assert planted_activations(clean, site_of(step), SHARD, rows) == pytest.approx(expected_BD, abs=1e-6)
        noises.append(planted_activations(settings, site_of(step), SHARD, rows) - expected_BD)
    assert np.std(noises, axis=(1, 2)) == pytest.approx(0.1, rel=0.02)
    assert np.abs(np.corrcoef([noise.ravel() for noise in noises]) - np.eye(5)).max() < 0.02


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_shard_depends_on_its_name_alone_and_a_short_one_begins_like_a_long_one(noise: float) -> None:
    settings = planted_model(**EVOLVING, noise=noise, correlated=True)
    site = site_of(4)
    series = {name: planted_activations(settings, site, name, 3000) for name in ("train-00000", "train-00001")}
    alone = planted_activations(settings, site, "train-00001", 3000)
    assert np.array_equal(alone, series["train-00001"])
    for other in (series["train-00000"], np.roll(alone, BLOCK_ROWS, axis=0)):
        assert np.isclose(alone, other).all(axis=1).mean() < 0.01, "only empty rows may be equal"
    assert np.array_equal(planted_activations(settings, site, "train-00001", 1500), alone[:1500])
    assert not np.array_equal(planted_activations(settings, site, "heldout-00001", 3000), alone)
    reseeded = planted_model(**EVOLVING, noise=noise, correlated=True, seed=1)
    assert not np.array_equal(planted_activations(reseeded, site, "train-00001", 3000), alone)


def test_rows_are_the_same_events_at_every_checkpoint_and_hook() -> None:
    settings = planted_model(**EVOLVING, d_model=48)
    strength_BG = strengths(settings, 500)
    for hook in (HOOK, "blocks.1.hook_mlp_out"):
        directions_GSD = planted_directions(settings, hook)
        for number, step in enumerate(STEPS):
            alive_G = planted_features(settings).alive(5)[:, number]
            x_BD = planted_activations(settings, site_of(step, hook), SHARD, 500)
            read_BG = np.linalg.lstsq(directions_GSD[alive_G, number].T, x_BD.T, rcond=None)[0].T
            assert read_BG == pytest.approx(strength_BG[:, alive_G], abs=1e-4)


def test_features_emerge_die_and_turn_when_and_as_far_as_the_truth_says() -> None:
    settings = planted_model(**EVOLVING)
    table = truth_table(settings).set_index("feature")
    assert table["kind"].value_counts().to_dict() == {"rotating": 12, "initial": 10, "emergent": 10, "dying": 8}
    directions_GSD = planted_directions(settings, HOOK)
    norms_GS = np.linalg.norm(directions_GSD, axis=2)
    for feature, row in table.iterrows():
        ends = np.inf if pd.isna(row["death_step"]) else row["death_step"]
        alive_S = np.array([row["emergence_step"] <= step < ends for step in STEPS])
        assert norms_GS[feature] == pytest.approx(alive_S.astype(float))
        between = [
            directions_GSD[feature, s] @ directions_GSD[feature, s + 1] for s in range(4) if alive_S[s : s + 2].all()
        ]
        turned = np.degrees(np.arccos(np.clip(between, -1, 1)))
        assert turned == pytest.approx(30.0 if row["kind"] == "rotating" else 0.0, abs=1e-5)
    rotating = directions_GSD[table["kind"] == "rotating"]
    assert np.degrees(np.arccos(np.einsum("gd,gd->g", rotating[:, 0], rotating[:, -1]))) == pytest.approx(120)
    for kind, column, first in (("emergent", "emergence_step", 3), ("dying", "death_step", 2)):
        counts = table.loc[table["kind"] == kind, column].value_counts()
        assert sorted(counts.index) == STEPS[1:]
        assert counts.min() >= first - 1
    hooks = [planted_directions(settings, hook)[:, 0].ravel() for hook in (HOOK, "blocks.1.hook_resid_post")]
    assert abs(np.corrcoef(hooks)[0, 1]) < 0.1


def test_truth_and_directions_are_written(tmp_path: Path) -> None:
    settings = planted_model(**EVOLVING)
    assert write_truth(settings, tmp_path / "toy/truth.csv") == {"features": 40}
    table = pd.read_csv(tmp_path / "toy/truth.csv")
    assert list(table.columns) == ["feature", "kind", "probability", "emergence_step", "death_step", "angle"]
    assert table["death_step"].isna().sum() == 32
    file = tmp_path / f"toy/directions/{HOOK}.safetensors"
    write_directions(settings, HOOK, file, None)
    assert load_file(file)["directions"] == pytest.approx(planted_directions(settings, HOOK), abs=1e-7)
    with safe_open(file, framework="np") as opened:
        made = json.loads(opened.metadata()["ontogeny"])
    assert (made["hook"], made["steps"]) == (HOOK, STEPS)
    first = file.read_bytes()
    write_directions(settings, HOOK, file, None)
    assert file.read_bytes() == first


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("int8", 0.02)])
def test_shards_are_like_those_of_a_language_model(tmp_path: Path, dtype: str, error: float) -> None:
    settings = planted_model(**EVOLVING, noise=0.01)
    rows_path = write_rows_file(tmp_path / "rows" / f"{SHARD}.h5", 3000)
    sites = [site_of(step) for step in STEPS]
    for site in sites:
        out = tmp_path / site.key / f"{SHARD}.h5"
        assert write_planted(settings, site, rows_path, dtype, out, None) == {"rows": 3000}
    aligned = open_aligned(tmp_path, sites, SHARD, verify=True)
    assert aligned.rows_hash == read_rows(rows_path).hash
    assert aligned.read(0, 3000)[:, 3] == pytest.approx(planted_activations(settings, sites[3], SHARD, 3000), abs=error)
    stored = open_shard(tmp_path / sites[1].key / f"{SHARD}.h5").stored
    assert stored.attributes["dtype"] == dtype
    assert "torch" in json.loads(str(stored.attributes["provenance"]))["versions"]


def test_unknown_step_is_one_line() -> None:
    with pytest.raises(UserError, match=r"models.toy.checkpoints: there is no step 3; steps are 0, 1, 2, 4, 8"):
        planted_activations(planted_model(**EVOLVING), site_of(3), SHARD, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"emergent": 0.5, "dying": 0.4, "rotating": 0.2, "checkpoints": [0, 1]}, "together they are 1.1"),
        ({"emergent": 0.5}, "need two checkpoints or more"),
        ({"dying": 1.0, "checkpoints": [0, 1]}, "a checkpoint would have no feature"),
        ({"active": 50.0, "decay": 0.9}, "makes the probability of the first one 5"),
        ({"active": 60.0, "features": 100, "decay": 1.0, "correlated": True}, "makes the probability of the first one 1.2"),
        ({"d_model": 1}, "greater than or equal to 2"),
        ({"rotation": 181}, "less than or equal to 180"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_planted_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        planted_model(**settings)


def test_drawing_leaves_other_randomness_alone() -> None:
    state = torch.get_rng_state()
    planted_activations(planted_model(correlated=True, noise=0.1), site_of(0), SHARD, 10)
    assert torch.equal(torch.get_rng_state(), state)
