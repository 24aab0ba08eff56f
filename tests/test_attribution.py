"""Attributions and ablations: exact where they must be, against derivatives by hand, and for planted features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_study import HOOK, SITES, make_models, make_tokens, random_crosscoder
from torch import Tensor

from ontogeny.config.evaluation import TaskSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.attribution import (
    FeatureSum,
    ablations,
    activation_x_gradient,
    feature_sum,
    held_out_ranks,
    integrated_gradients,
    metrics,
    over_groups,
    random_ranks,
    strength,
)
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.task_features import answer_difference, features_at, measure, read_codes
from ontogeny.evaluation.tasks import Task
from ontogeny.language_model.bridge import last_logits, load_model
from ontogeny.language_model.continuation import Continuation

B, T, D, L = 6, 4, 5, 12
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def features() -> FeatureSum:
    """Sparse features in float64, silent at position 0."""
    chance = torch.Generator().manual_seed(1)
    f_BTL = torch.rand(B, T, L, generator=chance, dtype=torch.float64)
    f_BTL[torch.rand(B, T, L, generator=chance) < 0.6] = 0
    f_BTL[:, 0] = 0
    f_BTL[:, :, 7] = 0
    return feature_sum(f_BTL, torch.randn(L, D, generator=chance, dtype=torch.float64))


@pytest.fixture
def x_BTD(features: FeatureSum) -> Tensor:
    """Activations: features, bias and error."""
    error = torch.randn(B, T, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return features.total() + 0.3 * error


def linear(x_MTD: Tensor, item_M: Tensor) -> Tensor:
    """A model that is linear after the site, in a way of its own for each item."""
    weight_BTD = torch.randn(B, T, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (x_MTD * weight_BTD[item_M]).sum((1, 2)) + item_M


def curved(x_MTD: Tensor, item_M: Tensor) -> Tensor:
    """A layer norm and a product of positions, so that nothing is linear."""
    normal_MTD = torch.nn.functional.layer_norm(x_MTD, (D,))
    return (normal_MTD[:, 1:] * x_MTD[:, :-1].tanh()).sum((1, 2)) * (1 + item_M)


def dense(features: FeatureSum) -> Tensor:
    """Undo `feature_sum` (shape: [B, T, L])."""
    f = torch.zeros(B * T * L, dtype=torch.float64)
    f[features.code.flat_N] = features.f_N
    return f.view(B, T, L)


def test_a_sum_of_features_is_the_dense_product(features: FeatureSum) -> None:
    torch.testing.assert_close(features.total(), dense(features) @ features.W_LD)
    expected = (dense(features) * features.W_LD.norm(dim=1)).sum(1)
    torch.testing.assert_close(strength(features), expected)


def test_where_the_model_is_linear_attributions_are_the_effects_of_ablation(
    features: FeatureSum, x_BTD: Tensor
) -> None:
    f_BTL = dense(features)
    alone = [f_BTL[:, :, i, None] * features.W_LD[i] for i in range(L)]
    clean_B, *without = metrics(linear, [x_BTD, *(x_BTD - own for own in alone)], 4)
    effect_BL = clean_B[:, None] - torch.stack(without, 1)
    torch.testing.assert_close(activation_x_gradient(linear, x_BTD, features, 4), effect_BL)
    torch.testing.assert_close(integrated_gradients(linear, x_BTD, features, 1, 4), effect_BL)


def test_activation_x_gradient_is_the_derivative(features: FeatureSum, x_BTD: Tensor) -> None:
    found_BL = activation_x_gradient(curved, x_BTD, features, 5)
    f_BTL, small = dense(features), 1e-6
    for i in range(L):
        own = f_BTL[:, :, i, None] * features.W_LD[i]
        up, down = metrics(curved, [x_BTD + small * own, x_BTD - small * own], 100)
        torch.testing.assert_close(found_BL[:, i], (up - down) / (2 * small), rtol=1e-6, atol=1e-8)
    assert not found_BL[:, 7].any(), "a silent feature does nothing"


def test_integrated_gradients_are_complete(features: FeatureSum, x_BTD: Tensor) -> None:
    clean_B, without_B = metrics(curved, [x_BTD, x_BTD - features.total()], 100)
    steps = TaskSettings().integration_steps
    total_B = integrated_gradients(curved, x_BTD, features, steps, 7).sum(1)
    torch.testing.assert_close(total_B, clean_B - without_B, rtol=1e-3, atol=1e-6)
    assert (activation_x_gradient(curved, x_BTD, features, 7).sum(1) - total_B).abs().max() > 0.1


def test_ablating_all_leaves_the_error_and_keeping_all_is_the_clean_model(features: FeatureSum, x_BTD: Tensor) -> None:
    rank_BL = random_ranks(strength(features), 0, "task")
    clean_B, without_B = metrics(curved, [x_BTD, x_BTD - features.total()], 100)
    ablated_KB, kept_KB = ablations(curved, x_BTD, features, rank_BL, [1, 3, L], 7)
    torch.testing.assert_close(ablated_KB[2], without_B)
    torch.testing.assert_close(kept_KB[2], clean_B)
    f_BTL = dense(features)
    for k, ablated_B, kept_B in zip([1, 3], ablated_KB, kept_KB, strict=False):
        first_BTL = f_BTL * (rank_BL < k)[:, None]
        expected = metrics(
            curved, [x_BTD - first_BTL @ features.W_LD, x_BTD - (f_BTL - first_BTL) @ features.W_LD], 100
        )
        torch.testing.assert_close(torch.stack([ablated_B, kept_B]), expected)


def test_an_item_has_no_part_in_the_ranking_that_it_is_measured_with() -> None:
    score_BL = torch.zeros(B, 3)
    score_BL[GROUPS % 2 == 0] = torch.tensor([3.0, 2.0, 1.0])
    score_BL[GROUPS % 2 == 1] = torch.tensor([1.0, 2.0, 3.0])
    rank_BL = held_out_ranks(score_BL, GROUPS)
    assert rank_BL.tolist() == [[2, 1, 0]] * 2 + [[0, 1, 2]] * 2 + [[2, 1, 0]] * 2


def test_random_features_are_seeded_and_fire() -> None:
    score_BL = torch.tensor([[0.0, 1.0, 0.0, 2.0]] * 40)
    first, again, other = (random_ranks(score_BL, seed, "task") for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert (first[:, [1, 3]] < 2).all(), "those that fire come first"
    assert 5 < (first[:, 1] == 0).sum() < 35, "either of them, by chance"


def test_standard_errors_are_those_of_groups() -> None:
    value_B = torch.tensor([1.0, 3.0, 4.0, 6.0, 0.0, 1.0])
    mean, error = over_groups(value_B, GROUPS)
    assert float(mean) == pytest.approx(2.5)
    assert float(error) == pytest.approx(np.std([2.0, 5.0, 0.5], ddof=1) / np.sqrt(3))
    mean_2, error_2 = over_groups(torch.stack([value_B, 2 * value_B], 1), GROUPS)
    torch.testing.assert_close(error_2, torch.stack([error, 2 * error]))
    torch.testing.assert_close(mean_2, torch.stack([mean, 2 * mean]))


D_MODEL = 16


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_tokens(folder)
    make_models(folder, D_MODEL, SITES)
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    return folder


def task(items: int = 12) -> Task:
    chance = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(1, 270, (items, 7), generator=chance)
    tokens_BT[:, 0] = 0
    answers = torch.randint(1, 270, (2, items), generator=chance)
    return Task("agreement", tokens_BT, *answers, torch.arange(items) // 2, 3)


@pytest.mark.parametrize(
    "hook", [HOOK, "blocks.1.attn.hook_z", "blocks.0.mlp.hook_out", "ln_final.hook_in", "hook_embed"]
)
def test_a_continuation_is_the_whole_model_patched(study: Path, hook: str) -> None:
    model = load_model(study / "models" / SITES[0].checkpoint)
    tokens_BT = task().tokens_BT
    continuation = Continuation(model, hook, tokens_BT)
    item_M = torch.tensor([3, 0, 3])
    x_MTD = (continuation.x_BTD[item_M] * torch.tensor([1.0, 0.5, -2.0])[:, None, None]).requires_grad_()
    expected = last_logits(model, tokens_BT[item_M], {hook: lambda _: x_MTD})
    found = continuation(x_MTD, item_M)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weight_MV = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    gradients = [torch.autograd.grad((logits * weight_MV).sum(), x_MTD)[0] for logits in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    plain = load_model(study / "models" / SITES[0].checkpoint)
    torch.testing.assert_close(last_logits(model, tokens_BT, {}), last_logits(plain, tokens_BT, {}))


@pytest.mark.parametrize(("nonlinearity", "gate"), [("batchtopk", "shared"), ("jumprelu", "site")])
def test_features_and_error_make_up_the_models_own_activations(study: Path, nonlinearity: str, gate: str) -> None:
    crosscoder = random_crosscoder(D_MODEL, nonlinearity, gate).requires_grad_(False)
    checkpoints = Checkpoints(study / "models", [site.checkpoint for site in SITES])
    (code,) = read_codes(crosscoder, checkpoints, [task()], first=1)
    own = [Continuation(checkpoints[site.checkpoint], HOOK, task().tokens_BT).x_BTD for site in SITES]
    x_hat_BTSD = crosscoder(torch.stack(own, 2)[:, 1:].flatten(0, 1)).view(12, 6, 2, D_MODEL)
    for s, site in enumerate(SITES):
        total_BTD = features_at(crosscoder, site, code, 12, first=1).total()
        assert not total_BTD[:, 0].any(), "position 0 is not seen"
        bias_D = crosscoder.b_dec[s] / crosscoder.scales[s] + crosscoder.centers[s]
        torch.testing.assert_close(total_BTD[:, 1:] + bias_D, x_hat_BTSD[:, :, s], rtol=1e-4, atol=1e-4)


def planted(study: Path) -> Crosscoder:
    """Build a dictionary whose latent 5 writes what tells the right answers of `task` from the wrong ones."""
    crosscoder = random_crosscoder(D_MODEL, "relu").requires_grad_(False)
    checkpoints = Checkpoints(study / "models", [site.checkpoint for site in SITES])
    crosscoder.W_dec.mul_(0.01)
    crosscoder.b_enc[5] = 3.0
    crosscoder.W_enc_LSD[5] = 0
    for s, site in enumerate(SITES):
        continuation = Continuation(checkpoints[site.checkpoint], HOOK, one_answer().tokens_BT)
        metric = answer_difference(continuation, one_answer())
        x_BTD = continuation.x_BTD.clone().requires_grad_()
        (gradient_BTD,) = torch.autograd.grad(metric(x_BTD, torch.arange(len(x_BTD))).sum(), x_BTD)
        gradient_D = gradient_BTD[:, 1:].mean((0, 1))
        crosscoder.W_dec[5, s] = gradient_D / gradient_D.norm() * crosscoder.scales[s]
    return crosscoder


def one_answer() -> Task:
    """Make a task with one right and one wrong answer."""
    return task()._replace(correct_B=torch.full((12,), 40), wrong_B=torch.full((12,), 41))


def test_the_planted_feature_leads_is_needed_and_is_found_again(study: Path) -> None:
    checkpoints = Checkpoints(study / "models", [site.checkpoint for site in SITES])
    found = list(measure(planted(study), checkpoints, SITES, [one_answer()], TaskSettings(ks=(1, 4)), first=1))
    assert [part.site for part in found] == list(SITES)
    for part in found:
        assert int(part.integrated_gradients_L.argmax()) == 5
        assert int(part.activation_x_gradient_L.argmax()) == 5
        values = {(a.ranking, a.features, a.k): a.value for a in part.ablations}
        scores = {score.metric: score.value for score in part.scores}
        assert values["attribution", "ablated", 1] < scores["logit_difference"] - 0.05
        assert values["attribution", "ablated", 1] < values["random", "ablated", 1]
        assert values["attribution", "kept", 1] > scores["without_features"] + 0.05
        assert scores["completeness_gap"] < 1e-3
