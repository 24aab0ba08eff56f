"""The loss: what it costs, what it teaches, and that copies of rows change neither."""

import dataclasses
from itertools import product
from typing import Any

import pytest
import torch
from crosscoder_runs import run_settings
from devices import on_every_device, random
from torch import Tensor

from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder import threshold_gradient
from ontogeny.crosscoder.loss import auxk, mean_activity, squared_error, tanh_quad
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.objective import Objective


def objective_of(settings: RunSettings, device: str, d_model: int = 6) -> Objective:
    """Make a crosscoder of random weights, in float64."""
    crosscoder = Crosscoder(
        settings.sites, d_model, settings.latents, settings.nonlinearity, settings.gate, settings.k
    ).to(device, torch.float64)
    with torch.no_grad():
        for seed, parameter in enumerate(crosscoder.parameters()):
            parameter.copy_(0.5 * random(*parameter.shape, seed=seed + 1))
    log_threshold_L = None
    if settings.nonlinearity == "jumprelu":
        log_threshold_L = (0.1 * random(settings.latents, device=device) - 1.0).requires_grad_()
        crosscoder.thresholds().copy_(log_threshold_L.detach().exp())
    return Objective(crosscoder, settings, log_threshold_L)


def gradients_of(objective: Objective, x_BSD: Tensor, dead_N: Tensor) -> list[Tensor]:
    leaves: list[Tensor] = list(objective.crosscoder.parameters())
    if objective.log_threshold_L is not None:
        leaves.append(objective.log_threshold_L)
    return list(torch.autograd.grad(objective(x_BSD, 0.7, dead_N).loss, leaves, materialize_grads=True))


GATES = (
    ("relu", "shared", None),
    ("topk", "shared", 3),
    ("batchtopk", "shared", 3),
    ("jumprelu", "shared", None),
    ("jumprelu", "site", None),
)
RECIPES: list[dict[str, Any]] = [
    {"nonlinearity": nonlinearity, "gate": gate, "penalty": penalty, "k": k, "sparsity": 1.0}
    for (nonlinearity, gate, k), penalty in product(GATES, ("none", "l1", "tanh", "tanh_quad"))
]


@on_every_device
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(map(str, list(recipe.values())[:3])))
def test_copies_of_the_batch_change_no_gradient(recipe: dict[str, Any], device: str) -> None:
    objective = objective_of(run_settings(1, dead={"policy": "auxk", "k": 2}, **recipe), device)
    x_BSD, dead_N = random(20, 3, 6, seed=50, device=device), torch.tensor([1, 4, 5, 9], device=device)
    once, twice = (gradients_of(objective, rows, dead_N) for rows in (x_BSD, torch.cat((x_BSD, x_BSD))))
    assert any(gradient.abs().sum() > 0 for gradient in once)
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(one, two)


@on_every_device
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(map(str, list(recipe.values())[:3])))
@pytest.mark.parametrize("firing", ["some", "none"])
def test_going_over_active_entries_equals_the_dense_step(
    recipe: dict[str, Any], firing: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold_gradient, "LATENTS_AT_ONCE", 7)
    objective = objective_of(run_settings(1, dead={"policy": "auxk", "k": 2}, **recipe), device)
    if firing == "none":
        with torch.no_grad():
            objective.crosscoder.b_enc.fill_(-1e3)
    x_BSD, dead_N = random(20, 3, 6, seed=50, device=device), torch.tensor([1, 4, 5, 9], device=device)
    sparse, dense = (dataclasses.replace(objective, sparse=choice) for choice in (True, False))
    found, expected = (choice(x_BSD, 0.7, dead_N) for choice in (sparse, dense))
    assert found.active is not None
    assert expected.active is None
    assert (len(found.active.flat_N) == 0) == (firing == "none")
    for name in ("loss", "reconstruction", "sparsity", "auxiliary", "error_BSD"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=name)
    for one, other in zip(*(gradients_of(choice, x_BSD, dead_N) for choice in (sparse, dense)), strict=True):
        torch.testing.assert_close(one, other)


def test_reconstruction_sums_over_sites_and_channels_and_averages_over_rows() -> None:
    target = torch.zeros(2, 3, 4)
    prediction = target.clone()
    prediction[0, 1, 2], prediction[1, 2, 3], prediction[1, 0, 0] = 2.0, 3.0, 1.0
    assert squared_error(prediction - target).item() == (4 + 9 + 1) / 2


@pytest.mark.parametrize(
    ("penalty", "expected"), [("l1", 1.6), ("tanh", 1.2), ("tanh_quad", (1 + 1 / 0.01) + 0.2 * (1 + 0.2 / 0.01))]
)
def test_penalties_by_hand(penalty: str, expected: float) -> None:
    # Latent 0 adds 1 on every row, latent 1 adds 3 on one row of five, and tanh(4 f n) of both is almost 1.
    f_BL = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 30.0], [2.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    norms_L = torch.tensor([0.5, 0.1], dtype=torch.float64)
    mean_L = mean_activity(f_BL, norms_L, None if penalty == "l1" else 20.0)
    found = tanh_quad(mean_L, 0.01) if penalty == "tanh_quad" else mean_L.sum()
    assert found.item() == pytest.approx(expected)


@on_every_device
def test_l1_price_is_the_code_times_decoder_norms_summed_over_sites(device: str) -> None:
    objective = objective_of(run_settings(1, nonlinearity="relu", penalty="l1", k=None, sparsity=1.0), device)
    x_BSD, nobody = random(20, 3, 6, seed=50, device=device), torch.empty(0, dtype=torch.int64, device=device)
    terms = objective(x_BSD, 0.7, nobody)
    crosscoder = objective.crosscoder
    f_BL = (torch.einsum("bsd,sdl->bl", x_BSD, crosscoder.W_enc) + crosscoder.b_enc).relu()
    price = (f_BL * crosscoder.W_dec.norm(dim=-1).sum(1)).sum(1).mean()
    torch.testing.assert_close(terms.sparsity, 0.7 * price.detach())
    pull = torch.autograd.grad(terms.loss, crosscoder.W_dec)[0]
    bare = torch.autograd.grad(objective(x_BSD, 0.0, nobody).loss, crosscoder.W_dec)[0]
    unit_LSD = crosscoder.W_dec / crosscoder.W_dec.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(pull - bare, 0.7 * f_BL.mean(0)[:, None, None] * unit_LSD)


@on_every_device
def test_loss_is_the_sum_of_its_terms_and_of_the_errors_of_the_plain_expression(device: str) -> None:
    recipe: dict[str, Any] = {
        "nonlinearity": "jumprelu",
        "gate": "site",
        "penalty": "tanh_quad",
        "k": None,
        "sparsity": 1.0,
    }
    objective = objective_of(run_settings(1, dead={"policy": "auxk", "k": 2, "coefficient": 0.5}, **recipe), device)
    x_BSD = random(20, 3, 6, seed=50, device=device)
    terms = objective(x_BSD, 0.7, torch.tensor([1, 4, 5], device=device))
    crosscoder = objective.crosscoder
    with torch.no_grad():
        h_BL = torch.einsum("bsd,sdl->bl", x_BSD, crosscoder.W_enc) + crosscoder.b_enc
        added_BSL = h_BL[:, None] * crosscoder.W_dec.norm(dim=-1).T
        f_BSL = torch.where(added_BSL > crosscoder.thresholds(), h_BL[:, None], 0.0)
        x_hat_BSD = torch.einsum("bsl,lsd->bsd", f_BSL, crosscoder.W_dec) + crosscoder.b_dec
        p_L = (4 * f_BSL * crosscoder.W_dec.norm(dim=-1).T).tanh().mean((0, 1))
        added_BN = h_BL[:, [1, 4, 5]].relu() * crosscoder.W_dec.norm(dim=-1).sum(1)[[1, 4, 5]]
        kept_BN = added_BN > added_BN.min(dim=1, keepdim=True).values
        said_BSD = torch.einsum("bn,nsd->bsd", h_BL[:, [1, 4, 5]] * kept_BN, crosscoder.W_dec[[1, 4, 5]])
        left_BSD = x_BSD - x_hat_BSD
    torch.testing.assert_close(terms.reconstruction, (x_hat_BSD - x_BSD).square().sum((1, 2)).mean())
    torch.testing.assert_close(terms.sparsity, 0.7 * (p_L * (1 + p_L / 0.01)).sum())
    torch.testing.assert_close(terms.auxiliary, 0.5 * (said_BSD - left_BSD).square().sum((1, 2)).mean())
    torch.testing.assert_close(terms.loss.detach(), terms.reconstruction + terms.sparsity + terms.auxiliary)


def test_auxk_in_closed_form() -> None:
    # Two dead latents over two sites of one channel, k = 1: the first row takes latent 1, for 3 x 1 > 2 x 1; the second
    # takes latent 0; the third takes none, since no pre-activation is above 0.
    h_BN = torch.tensor([[2.0, 3.0], [2.0, 1.0], [-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    W_dec_NSD = torch.tensor([[[0.6], [0.4]], [[0.0], [1.0]]], dtype=torch.float64, requires_grad=True)
    error_BSD = torch.tensor([[[1.0], [2.0]], [[1.0], [1.0]], [[3.0], [0.0]]], dtype=torch.float64, requires_grad=True)
    loss = auxk(h_BN, W_dec_NSD, torch.ones(2, dtype=torch.float64), error_BSD, k=1)
    assert loss.item() == pytest.approx(((1 + 1) + (0.2**2 + 0.2**2) + 9) / 3)
    loss.backward()  # type: ignore[no-untyped-call]
    assert h_BN.grad is not None
    assert W_dec_NSD.grad is not None
    expected = [[0.0, 2 * 1.0 * 1.0 / 3], [2 * (0.2 * 0.6 - 0.2 * 0.4) / 3, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(h_BN.grad, torch.tensor(expected, dtype=torch.float64))
    expected_W = [[[2 * 0.2 * 2.0 / 3], [-2 * 0.2 * 2.0 / 3]], [[-2 * 1.0 * 3.0 / 3], [2 * 1.0 * 3.0 / 3]]]
    torch.testing.assert_close(W_dec_NSD.grad, torch.tensor(expected_W, dtype=torch.float64))
    assert error_BSD.grad is None


@on_every_device
def test_auxk_teaches_the_dead_latents_and_nobody_else(device: str) -> None:
    objective = objective_of(run_settings(1, k=3, dead={"policy": "auxk", "k": 2, "coefficient": 0.5}), device)
    x_BSD, dead_N = random(20, 3, 6, seed=50, device=device), torch.tensor([1, 4, 5], device=device)
    with_auxk, without = (gradients_of(objective, x_BSD, dead) for dead in (dead_N, dead_N[:0]))
    taught = {
        name: (one - other).abs()
        for (name, _), one, other in zip(objective.crosscoder.named_parameters(), with_auxk, without, strict=True)
    }
    alive = [latent for latent in range(32) if latent not in dead_N]
    for name, latents_axis in (("W_enc_LSD", 0), ("b_enc", 0), ("W_dec", 0)):
        assert taught[name].index_select(latents_axis, torch.tensor(alive, device=device)).sum() == 0
        assert taught[name].index_select(latents_axis, dead_N).sum() > 0
    assert taught["b_dec"].sum() == 0
