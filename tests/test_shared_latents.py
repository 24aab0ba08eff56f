"""Designated shared latents: one decoder for all sites, a price of their own, and what they are there for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from crosscoder_runs import run_settings, scaled, stepper_of, train_small, write_activations
from pydantic import ValidationError

from ontogeny.crosscoder.initialisation import unit_decoder
from ontogeny.crosscoder.optimisation import tie_sites
from ontogeny.evaluation.truth import cosines

ROWS, WIDTH, FEATURES = 16384, 16, 12
SHARED, ALONE_AT = slice(0, 8), {0: slice(8, 10), 1: slice(10, 12)}
"""Planted features that both sites have, and those of each site alone."""
L1 = {"nonlinearity": "relu", "k": None, "penalty": "l1", "sparsity": 0.5, "learning_rate": 3e-3, "epochs": 8}


@pytest.fixture(scope="module")
def directions_GSD() -> np.ndarray:
    """Features in superposition: those in common point to the same way at both sites."""
    draw_GD = np.random.default_rng(1).standard_normal((FEATURES, WIDTH))
    directions_GSD = np.repeat(draw_GD[:, None] / np.linalg.norm(draw_GD, axis=1)[:, None, None], 2, axis=1)
    for site, own in ALONE_AT.items():
        directions_GSD[own, 1 - site] = 0.0
    return directions_GSD


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory, directions_GSD: np.ndarray) -> Path:
    random = np.random.default_rng(2)
    strength_BG = random.uniform(0.5, 1.5, (ROWS, FEATURES)) * (random.random((ROWS, FEATURES)) < 0.15)
    raw_BSD = np.einsum("bg,gsd->bsd", strength_BG, directions_GSD) + 0.01 * random.standard_normal((ROWS, 2, WIDTH))
    return write_activations(tmp_path_factory.mktemp("planted"), raw_BSD.astype(np.float32), ROWS)


def test_the_gradient_of_shared_latents_is_its_mean_over_sites() -> None:
    gradient_LSD = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[1.0, 2.0], [3.0, 6.0]]])
    tie_sites(gradient_LSD, 1, 2)
    assert gradient_LSD.tolist() == [[[2.0, 4.0], [2.0, 4.0]], [[1.0, 2.0], [3.0, 6.0]]]


@pytest.mark.parametrize("latents", [4, 1500])
def test_shared_latents_begin_with_one_direction(latents: int) -> None:
    settings = run_settings(1, latents=latents, initialisation="independent", shared={"share": 0.75})
    count = settings.shared_latents
    unit_LSD, free_LSD = (
        unit_decoder(run, 8) for run in (settings, settings.model_copy(update={"shared": type(settings.shared)()}))
    )
    assert count == 0.75 * latents
    assert torch.equal(unit_LSD[:count], free_LSD[:count, :1].expand(-1, 3, -1))
    assert torch.equal(unit_LSD[count:], free_LSD[count:])
    assert not torch.equal(unit_LSD[count:, 0], unit_LSD[count:, 1])


@pytest.mark.parametrize("changes", [{}, {"decoder": "unit", "decoder_norm": 0.1}, {"nonlinearity": "topk", "k": 2}])
def test_decoders_of_shared_latents_stay_equal_to_the_bit(tmp_path: Path, activations: Path, changes: dict) -> None:
    settings = run_settings(ROWS, sites=2, shared={"share": 0.25}, **{**L1, "epochs": 1, **changes})
    learnt = train_small(tmp_path, settings, activations)
    assert settings.shared_latents == 8
    assert torch.equal(learnt.W_dec[:8, 0], learnt.W_dec[:8, 1])
    assert not torch.equal(learnt.W_dec[8:, 0], learnt.W_dec[8:, 1])
    assert not torch.equal(learnt.W_enc_LSD[:8, 0], learnt.W_enc_LSD[:8, 1]), "encoders are free"


def test_a_step_is_that_of_one_decoder_used_at_every_site(activations: Path) -> None:
    settings = run_settings(ROWS, sites=2, shared={"share": 1 - 1e-9, "sparsity": 1.0}, gradient_clip=None, **L1)
    stepper, reader = stepper_of(activations, settings)
    x_BSD, W_enc_LSD = scaled(stepper, reader.read(0).raw_BSD).double(), stepper.crosscoder.W_enc_LSD.detach().double()
    one_LD = stepper.crosscoder.W_dec[:, 0].detach().double().requires_grad_()
    f_BL = torch.einsum("bsd,lsd->bl", x_BSD, W_enc_LSD).relu()
    (x_BSD - (f_BL @ one_LD)[:, None]).square().sum((1, 2)).mean().backward()
    terms = stepper.objective(scaled(stepper, reader.read(0).raw_BSD), 0.0, stepper.dead_N)
    terms.loss.backward()
    gradient_LSD = stepper.crosscoder.W_dec.grad
    tie_sites(gradient_LSD, settings.shared_latents, 2)
    assert settings.shared_latents == settings.latents
    assert gradient_LSD[:, 0].double().numpy() * 2 == pytest.approx(one_LD.grad.numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("penalty", ["l1", "tanh", "tanh_quad"])
def test_shared_latents_cost_their_share_of_the_penalty(activations: Path, penalty: str) -> None:
    changes = {**L1, "penalty": penalty, "decoder_norm": 0.5}
    costs = {}
    for name, share, price in (("free", 0.0, 1.0), ("half", 0.5, 0.25), ("nothing", 0.5, 0.0)):
        settings = run_settings(ROWS, sites=2, shared={"share": share, "sparsity": price}, **changes)
        stepper, reader = stepper_of(activations, settings)
        costs[name] = float(stepper.objective(scaled(stepper, reader.read(0).raw_BSD), 1.0, stepper.dead_N).sparsity)
    of_shared, of_free = costs["free"] - costs["nothing"], costs["nothing"]
    assert min(of_shared, of_free) > 0
    if penalty != "tanh_quad":
        assert costs["half"] == pytest.approx(of_free + of_shared / 4, rel=1e-5)
    else:
        assert of_free < costs["half"] < of_free + of_shared / 4, "its square takes the square of the price"


def test_planted_features_end_where_they_belong(tmp_path: Path, activations: Path, directions_GSD: np.ndarray) -> None:
    settings = run_settings(ROWS, sites=2, shared={"share": 0.5}, **L1)
    learnt = train_small(tmp_path, settings, activations)
    decoder_LSD = learnt.W_dec.detach().numpy()
    cosines_LG = cosines(decoder_LSD, directions_GSD * learnt.scales.numpy()[:, None])
    best_G, found_G = cosines_LG.max(0), cosines_LG.argmax(0)
    norms_LS = np.linalg.norm(decoder_LSD, axis=2)
    relative_G = (norms_LS[:, 1] / norms_LS.sum(1))[found_G]
    assert best_G.min() > 0.95
    assert (found_G[SHARED] < settings.shared_latents).all(), "what both have is cheaper on designated latents"
    assert relative_G[SHARED] == pytest.approx(0.5, abs=1e-6)
    assert (found_G[8:] >= settings.shared_latents).all(), "what one has alone cannot be on them"
    assert relative_G[ALONE_AT[0]].max() < 0.05
    assert relative_G[ALONE_AT[1]].min() > 0.95


def test_resampling_would_part_the_decoders() -> None:
    with pytest.raises(ValidationError, match="take 'auxk' with shared latents"):
        run_settings(1, shared={"share": 0.5}, dead={"policy": "resample"})
