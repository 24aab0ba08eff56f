"""Runs of one or several processes over five sites, for the tests of parallel training."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from crosscoder_runs import JUMPRELU, planted, run_settings, write_activations
from torch import Tensor

from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.gathering import SITE_AXES
from ontogeny.crosscoder.model import load_crosscoder
from ontogeny.crosscoder.parallel import ALONE, Ranks
from ontogeny.crosscoder.state import Interrupted
from ontogeny.crosscoder.step import Stepper
from ontogeny.crosscoder.trainer import train

SITES, D_MODEL = 5, 6
GRIDS = [(2, 1), (4, 1), (2, 2), (4, 2)]
"""Processes, and how many of them divide the rows."""
ENDS = "ends with code 1"
RESAMPLE: dict[str, Any] = {"policy": "resample", "interval": 8, "times": 3, "candidates": 512}
RECIPES_TO_TRAIN: dict[str, dict[str, Any]] = {
    "batchtopk": {"dead": {"policy": "auxk", "after_rows": 512, "k": 4}, "decoder_norm": "search", "center": True},
    "topk": {
        "nonlinearity": "topk",
        "k": 3,
        "penalty": "l1",
        "sparsity": 0.1,
        "site_error": "mean",
        "shared": {"share": 0.25, "sparsity": 0.5},
    },
    "relu": {"nonlinearity": "relu", "k": None, "decoder": "unit", "initialisation": "independent", "pre_bias": True},
    "jumprelu": {**JUMPRELU, "dead": RESAMPLE, "latents": 64},
    "site": {**JUMPRELU, "gate": "site", "gradient_clip": 0.1},
}
RUNS = {
    name: run_settings(4096, 2, sites=SITES, learning_rate=1e-3, log_every=3, save_every=20, **recipe)
    for name, recipe in RECIPES_TO_TRAIN.items()
}


def of_sites(name: str, value: Tensor, own: slice) -> Tensor:
    """Cut some sites out of a tensor of all."""
    axis = SITE_AXES.get(name)
    return value if axis is None else value[(slice(None),) * axis + (own,)]


def ranks_of(number: int, processes: int, data_ranks: int) -> Ranks:
    site_ranks = processes // data_ranks
    return Ranks(number % site_ranks, site_ranks, number // site_ranks, data_ranks)


def write_five_sites(folder: Path) -> Path:
    """Write planted rows at five sites, some of them with larger activations, and return `folder`."""
    raw_BSD = planted(4096, SITES, norms=(1.0, 10.0, 100.0, 1.0, 1.0)).raw_BSD
    return write_activations(folder, raw_BSD, 2048)


def train_all(ranks: Ranks, activations: Path, folder: Path, names: Iterable[str] = RUNS) -> None:
    """Train runs by their names, each into a folder of its own."""
    for name in names:
        train(RUNS[name], activations, folder / name / "state", folder / name / "run", ranks=ranks)


def train_alone(activations: Path, folder: Path) -> Path:
    """Train every run in one process, and return `folder`."""
    train_all(ALONE, activations, folder)
    return folder


def assert_same_run(run: Path, expected: Path) -> None:
    """Compare training logs to 1e-5, and the files' other contents."""
    one, other = (pd.read_csv(folder / "training.csv") for folder in (run, expected))
    pd.testing.assert_frame_equal(one, other, rtol=1e-5, atol=1e-9, check_exact=False)
    assert (run / "config.json").read_bytes() == (expected / "config.json").read_bytes()
    weights, expected_weights = (load_crosscoder(folder).state_dict() for folder in (run, expected))
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4, msg=name)


def stopped_at(step: int, settings: RunSettings, ranks: Ranks, activations: Path, folder: Path) -> dict[str, Tensor]:
    """Train until SIGTERM arrives in a step, at the last process alone, and return what this process had then."""
    take, last = Stepper.step, {}

    def stop(self: Stepper, raw_BSD: Tensor, logged: bool) -> dict[str, float] | None:
        measured = take(self, raw_BSD, logged)
        if self.steps_done == step and ranks.number == ranks.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        last.update({name: value.clone() for name, value in self.state().items()}, steps=torch.tensor(self.steps_done))
        return measured

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Stepper, "step", stop)
        train(settings, activations, folder / "state", folder / "run", ranks=ranks)
    return last
