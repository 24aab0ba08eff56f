"""Recipes: every combination takes steps, and every key changes what is learnt."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crosscoder_runs import (
    GATES,
    JUMPRELU,
    stepper_of,
    train_small,
    uneven_settings,
    write_uneven,
)

from ontogeny.config.dictionaries import DeadLatents, Recipe


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_uneven(tmp_path_factory.mktemp("activations"))


COMBINATIONS = [
    (nonlinearity, gate, penalty, dead, decoder, initialisation, precision)
    for (nonlinearity, gate), penalty, dead, (decoder, initialisation), precision in itertools.product(
        GATES,
        ("none", "l1", "tanh", "tanh_quad"),
        ("none", "auxk", "resample"),
        (("free", "tied"), ("unit", "independent")),
        ("float32", "bfloat16"),
    )
]


@pytest.mark.parametrize("nonlinearity", ["relu", "topk", "batchtopk", "jumprelu"])
def test_every_combination_of_settings_takes_three_steps(nonlinearity: str, activations: Path) -> None:
    for kind, gate, penalty, dead, decoder, initialisation, precision in COMBINATIONS:
        if kind != nonlinearity:
            continue
        settings = uneven_settings(
            nonlinearity=nonlinearity,
            gate=gate,
            penalty=penalty,
            dead={"policy": dead, "after_rows": 1, "k": 4, "interval": 2, "candidates": 256},
            decoder=decoder,
            decoder_norm=0.1 if decoder == "unit" else "search",
            initialisation=initialisation,
            precision=precision,
            k=3 if nonlinearity in ("topk", "batchtopk") else None,
            sparsity=None if penalty == "none" else 0.1,
        )
        stepper, reader = stepper_of(activations, settings)
        stepper.dead_N = torch.tensor([1, 2, 3], device=stepper.dead_N.device)
        for batch in itertools.islice(reader.batches(), 3):
            measured = stepper.step(batch.raw_BSD, logged=True)
        assert measured is not None
        assert np.isfinite(list(measured.values())).all()
        assert stepper.first_faulty == -1


CHANGES: dict[str, dict[str, Any]] = {
    "nonlinearity": {"nonlinearity": "topk"},
    "latents": {"latents": 33},
    "k": {"k": 3},
    "seed": {"seed": 1},
    "center": {"center": True},
    "initialisation": {"initialisation": "independent"},
    "decoder": {"decoder": "unit"},
    "decoder_norm": {"decoder_norm": 0.2},
    "learning_rate": {"learning_rate": 1e-3},
    "betas": {"betas": (0.8, 0.99)},
    "gradient_clip": {"gradient_clip": 0.5},
    "batch_size": {"batch_size": 64},
    "epochs": {"epochs": 2},
    "warmup": {"warmup": 0.3},
    "decay": {"decay": 0.5},
    "final_learning_rate": {"final_learning_rate": 0.5},
    "pre_bias": {"pre_bias": True},
    "site_error": {"site_error": "mean"},
    "precision": {"precision": "bfloat16"},
    "dead": {"dead": {"policy": "auxk", "after_rows": 256}},
    "penalty": {"penalty": "l1", "sparsity": 0.1},
}
JUMPRELU_CHANGES: dict[str, dict[str, Any]] = {
    "gate": {"gate": "site"},
    "penalty": {"penalty": "tanh"},
    "sparsity": {"sparsity": 0.2},
    "sparsity_warmup": {"sparsity_warmup": 0.5},
    "tanh_scale": {"tanh_scale": 2.0},
    "frequency_scale": {"frequency_scale": 0.1},
    "threshold": {"threshold": 0.2},
    "bandwidth": {"bandwidth": 1.0},
    "threshold_learning_rate": {"threshold_learning_rate": 0.2},
}


AUXK: dict[str, Any] = {"policy": "auxk", "after_rows": 256, "k": 4}
AUXK_CHANGES = {"dead.after_rows": 512, "dead.k": 8, "dead.coefficient": 1.0, "dead.policy": "none"}
RESAMPLE: dict[str, Any] = {"policy": "resample", "interval": 6, "times": 4, "candidates": 256}
RESAMPLE_CHANGES = {"dead.interval": 8, "dead.times": 1, "dead.candidates": 512, "dead.encoder_scale": 0.5}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "batchtopk": ({}, CHANGES),
    "jumprelu": (JUMPRELU, JUMPRELU_CHANGES),
    **{
        str(plain["policy"]): (
            {"dead": plain, "k": 1, "latents": 64},
            {name: {"dead": {**plain, name.removeprefix("dead."): value}} for name, value in changes.items()},
        )
        for plain, changes in ((AUXK, AUXK_CHANGES), (RESAMPLE, RESAMPLE_CHANGES))
    },
}


def test_every_key_of_a_recipe_is_tested() -> None:
    tested = {name for _, changes in SETTINGS.values() for name in changes}
    keys = set(Recipe.model_fields) | {f"dead.{key}" for key in DeadLatents.model_fields}
    unchanging = {"log_every", "save_every", "density_rows", "density_histograms"}
    assert keys - tested == unchanging | {"shared"}, "the first change nothing, the last has tests of its own"


@pytest.mark.parametrize(("plain", "changes"), SETTINGS.values(), ids=SETTINGS)
def test_every_setting_changes_the_result(
    plain: dict[str, Any], changes: dict[str, dict[str, Any]], activations: Path, tmp_path: Path
) -> None:
    found = {}
    for name, change in {"nothing": {}, **changes}.items():
        train_small(tmp_path / name, uneven_settings(**{**plain, **change}), activations)
        found[name] = (tmp_path / name / "run" / "crosscoder.safetensors").read_bytes()
    same = [name for name in changes if found[name] == found["nothing"]]
    assert same == []
