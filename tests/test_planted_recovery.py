"""Dictionaries find what was planted: the recipe of configs/planted.yaml, trained by the trainer of the pipeline."""

from pathlib import Path

import numpy as np
import pytest
from planted_runs import HOOK, planted_model, planted_study, site_of, train_on_planted

from ontogeny.activations.planted_features import planted_directions, planted_features
from ontogeny.config.models import PlantedModel
from ontogeny.evaluation.truth import Lifetimes, find_planted, mean_max_cosine_similarity, rotations


@pytest.mark.parametrize("correlated", [False, True])
def test_features_of_the_easy_toy_are_found_and_nothing_else(tmp_path: Path, correlated: bool) -> None:
    model = planted_model(d_model=64, features=96, active=3.0, correlated=correlated)
    study = planted_study()
    settings = study.runs("crosscoder")[study.featured_run()[1]].model_copy(
        update={"sites": (site_of(0),), "latents": 128, "sparsity": 2.0}
    )
    learnt = train_on_planted(tmp_path, study, model, settings)
    found, pure = mean_max_cosine_similarity(learnt.decoder_LSD, planted_directions(model, HOOK))
    assert found > 0.95
    assert pure > 0.95


@pytest.mark.parametrize(("seed", "correlated"), [(0, False), (1, True)])
def test_planted_evolution_is_found_dated_and_measured(tmp_path: Path, seed: int, correlated: bool) -> None:
    study = planted_study(seed=seed, correlated=correlated)
    model = study.models["toy"]
    assert isinstance(model, PlantedModel)
    learnt = train_on_planted(tmp_path, study, model, study.runs("crosscoder")[study.featured_run()[1]])
    scaled_GSD = planted_directions(model, HOOK) * learnt.scales_S[:, None]
    found = find_planted(learnt.decoder_LSD, scaled_GSD, study.evaluation.features.emergence_threshold)
    recovered = found.recovered()
    assert len(learnt.scales_S) == 8
    assert recovered.mean() >= 0.9

    truth = planted_features(model)
    assert (found.lifetimes.emergence == truth.emergence)[recovered].mean() >= 0.95
    assert (found.lifetimes.death == truth.death)[recovered].mean() >= 0.95
    for kind in ("emergent", "dying"):
        assert (recovered & (truth.kind == kind)).sum() >= 12, "or there is nothing to date"

    rotating = recovered & (truth.kind == "rotating")
    angle = rotations(scaled_GSD, Lifetimes(truth.emergence, truth.death))
    assert angle[rotating] == pytest.approx(90)
    assert rotating.sum() >= 12
    assert (np.abs(found.angle - angle)[rotating] < 5).all()
