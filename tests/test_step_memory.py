"""The memory of a training step, at the shape that docs/performance.md measures."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from crosscoder_runs import sites_of
from live_memory import LiveMemory
from torch import Tensor

from ontogeny.activations.statistics import SiteStatistics
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.step import Stepper

B, S, D, L = 1024, 12, 128, 2048


def test_live_memory_counts_what_is_alive_and_what_is_kept_for_a_gradient() -> None:
    with LiveMemory() as memory:
        x = torch.ones(1000, requires_grad=True)
        y = (x * 2).square()  # which keeps 2 x
        assert memory.live == 12_000
        del y
        assert memory.live == 4_000
        assert memory.peak == 12_000


def stepper_of(recipe: dict[str, Any], dense: bool, raw_BSD: Tensor) -> Stepper:
    """Make a stepper that is dense, or has about 40 latents a row and goes over them alone."""
    settings = RunSettings.model_validate(
        {"k": None, "sparsity": None, "seed": 0, "dictionary": "crosscoder", "run": "run", "shards": ("train-00000",)}
        | {"sites": sites_of(S), "latents": L, "batch_size": B, "rows": 8 * B}
        | recipe
    )
    statistics = [SiteStatistics(B, np.zeros(D), D**0.5, 1.0, D**0.5)] * S
    stepper = Stepper(settings, 100, D, statistics)
    stepper.initialise(raw_BSD)
    if not dense:
        with torch.no_grad():
            h_BL = stepper.crosscoder.pre_activations(raw_BSD)
            stepper.crosscoder.b_enc.sub_(torch.from_numpy(np.quantile(h_BL.numpy(), 1 - 40 / L, axis=0)).float())
            if stepper.log_threshold_L is not None:
                stepper.log_threshold_L.fill_(float(np.log(1e-3)))
                stepper.crosscoder.thresholds().copy_(stepper.log_threshold_L.exp())
    stepper.objective = dataclasses.replace(stepper.objective, sparse=not dense)
    return stepper


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("nonlinearity", "gate", "penalty"),
    [
        ("relu", "shared", "l1"),
        ("batchtopk", "shared", "none"),
        ("jumprelu", "shared", "tanh_quad"),
        ("jumprelu", "site", "tanh_quad"),
    ],
)
def test_a_step_takes_at_most_six_matrices_of_rows_and_latents(
    nonlinearity: str, gate: str, penalty: str, dense: bool, precision: str
) -> None:
    recipe = {"nonlinearity": nonlinearity, "gate": gate, "penalty": penalty, "precision": precision}
    recipe |= {"k": 32} if nonlinearity == "batchtopk" else {}
    recipe |= {} if penalty == "none" else {"sparsity": 0.1}
    raw_BSD = torch.randn(B, S, D, generator=torch.Generator().manual_seed(0))
    stepper = stepper_of(recipe, dense, raw_BSD)
    with LiveMemory([raw_BSD, *stepper.state().values()]) as memory:
        stepper.step(raw_BSD, logged=False)
        gradients = sum(p.grad.nbytes for p in stepper.parameters if p.grad is not None)
        memory.peak = memory.live
        measured = stepper.step(raw_BSD, logged=True)
    assert measured is not None
    assert dense or 25 < measured["l0"] < 60
    moments = sum(value.nbytes for state in stepper.optimiser.state.values() for value in state.values())
    matrices = (memory.peak - gradients - moments) / (4 * B * L)
    assert 2 < matrices < 6.05  # what is beyond six are vectors, and matrices of latents and sites
