"""Training: what each setting does, that runs are exact, and that what was planted is found."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosscoder_runs import (
    JUMPRELU,
    UNEVEN_ROWS,
    Planted,
    bytes_of,
    planted,
    run_settings,
    scaled,
    sites_of,
    stepper_of,
    train_small,
    uneven_settings,
    write_activations,
    write_uneven,
)

from ontogeny.crosscoder.initialisation import unit_decoder
from ontogeny.crosscoder.schedule import learning_rate_factor, sparsity_factor
from ontogeny.crosscoder.step import STEPS_BETWEEN_ROLL_CALLS, THRESHOLD_MEMORY
from ontogeny.errors import UserError

COLUMNS = ["step", "rows", "loss", "reconstruction", "sparsity", "auxiliary", "fvu", "l0", "dead", "learning_rate"]


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_uneven(tmp_path_factory.mktemp("activations"))


def test_one_seed_gives_the_same_bytes_and_two_differ(activations: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        train_small(
            tmp_path / name, uneven_settings(seed=seed, dead={"policy": "auxk", "after_rows": 256}), activations
        )
    one, again, other = (bytes_of(tmp_path / name / "run") for name in ("one", "again", "other"))
    assert one == again
    assert one["crosscoder.safetensors"] != other["crosscoder.safetensors"]


def test_rows_of_sites_are_scaled_to_one_norm(activations: Path) -> None:
    for center in (False, True):
        stepper, reader = stepper_of(activations, uneven_settings(center=center))
        x_BSD = scaled(stepper, torch.cat([batch.raw_BSD for batch in reader.batches()]))
        assert x_BSD.norm(dim=-1).mean(0).tolist() == pytest.approx([4.0] * 3, rel=1e-3)
        assert (x_BSD.mean(0).norm() < 1e-2) == center


def test_planted_features_are_found_and_the_absent_site_stays_empty(tmp_path: Path) -> None:
    truth = planted(16384)
    activations = write_activations(tmp_path / "activations", truth.raw_BSD, 8192)
    crosscoder = train_small(tmp_path, run_settings(16384, 2, epochs=4, learning_rate=1e-2), activations)
    cosine_G, latent_G = best_matches(truth, crosscoder.W_dec.detach().numpy() / crosscoder.scales.numpy()[:, None])
    assert cosine_G.min() > 0.9
    norms_LS = crosscoder.decoder_norms().detach().numpy()
    normalised_GS = norms_LS[latent_G] / norms_LS[latent_G].max(1, keepdims=True)
    assert normalised_GS[0, -1] < 0.05
    assert normalised_GS[1:].min() > 0.5
    f = crosscoder.encode(torch.from_numpy(truth.raw_BSD))
    assert (f > 0).sum(1).float().mean().item() == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(
    "recipe", [{}, {"nonlinearity": "relu", "k": None, "penalty": "l1", "sparsity": 0.2}], ids=["batchtopk", "relu"]
)
def test_bfloat16_products_cost_no_reconstruction(recipe: dict[str, Any], tmp_path: Path) -> None:
    """At a rate that is low enough for runs that differ by rounding to stay together; over seeds, since they vary."""
    raw_BSD = torch.from_numpy(planted(8192).raw_BSD)
    activations = write_activations(tmp_path / "activations", raw_BSD.numpy(), 4096)

    def error(precision: str, seed: int) -> float:
        settings = run_settings(8192, 2, epochs=4, learning_rate=1e-3, precision=precision, seed=seed, **recipe)
        crosscoder = train_small(tmp_path / f"{precision}-{seed}", settings, activations)
        return (crosscoder(raw_BSD) - raw_BSD).detach().double().square().sum().item()

    more = np.array([error("bfloat16", seed) / error("float32", seed) - 1 for seed in range(6)])
    half_width = 2.57 * more.std(ddof=1) / 6**0.5  # Student's t, five degrees of freedom, 95 %
    assert more.any(), "precision is used"
    assert more.mean() + half_width < 0.02


def best_matches(truth: Planted, W_dec_LSD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the latent of the highest cosine for each planted feature, all sites together."""
    planted_GM = truth.directions_GSD.reshape(len(truth.directions_GSD), -1)
    learnt_LM = W_dec_LSD.reshape(len(W_dec_LSD), -1)
    cosine_GL = planted_GM @ learnt_LM.T / np.linalg.norm(learnt_LM, axis=1)
    cosine_GL /= np.linalg.norm(planted_GM, axis=1, keepdims=True)
    return cosine_GL.max(1), cosine_GL.argmax(1)


@pytest.mark.parametrize("epochs", [1, 4])
def test_batchtopk_evaluates_near_k_even_after_a_short_run(epochs: int, activations: Path, tmp_path: Path) -> None:
    crosscoder = train_small(tmp_path, uneven_settings(k=5, epochs=epochs), activations)
    raw_BSD = torch.from_numpy(planted(UNEVEN_ROWS, norms=(1.0, 10.0, 100.0)).raw_BSD)
    assert (crosscoder.encode(raw_BSD) > 0).sum(1).float().mean().item() == pytest.approx(5, rel=0.2)


def test_the_threshold_is_the_bias_corrected_mean_of_what_was_kept_least(activations: Path) -> None:
    stepper, reader = stepper_of(activations, uneven_settings())
    kept: list[float] = []
    for batch in itertools.islice(reader.batches(), 5):
        x_BSD = scaled(stepper, batch.raw_BSD)
        least_kept = stepper.objective(x_BSD, 0.0, stepper.dead_N).least_kept
        assert least_kept is not None
        kept.append(least_kept.item())
        stepper.step(batch.raw_BSD, logged=False)
    weights = THRESHOLD_MEMORY ** np.arange(5)[::-1]
    assert stepper.crosscoder.thresholds().item() == pytest.approx(weights @ kept / weights.sum(), rel=1e-5)


def test_thresholds_learn_at_their_own_rate(activations: Path) -> None:
    moved = {}
    for factor in (0.1, 0.3):
        stepper, reader = stepper_of(
            activations, uneven_settings(**JUMPRELU, threshold_learning_rate=factor, warmup=0.0)
        )
        assert stepper.log_threshold_L is not None
        before_L, W_dec = stepper.log_threshold_L.detach().clone(), stepper.crosscoder.W_dec.detach().clone()
        stepper.step(reader.read(0).raw_BSD, logged=False)
        stepper.step(reader.read(1).raw_BSD, logged=False)
        moved[factor] = (stepper.log_threshold_L.detach() - before_L).abs().max().item()
        assert (stepper.crosscoder.W_dec - W_dec).abs().max().item() == pytest.approx(2 * 3e-3, rel=0.05)
        assert torch.equal(stepper.crosscoder.thresholds(), stepper.log_threshold_L.exp())
    # The first steps of Adam are as long as the learning rate.
    assert moved[0.1] == pytest.approx(2 * 3e-4, rel=0.05)
    assert moved[0.3] == pytest.approx(3 * moved[0.1], rel=0.05)


def test_a_step_of_the_fused_optimiser_is_one_of_plain_adam(activations: Path) -> None:
    stepper, reader = stepper_of(activations, uneven_settings(gradient_clip=None, warmup=0.0))
    stepper.step(reader.read(0).raw_BSD, logged=False)
    plain = [parameter.detach().clone() for parameter in stepper.parameters]
    optimiser = torch.optim.Adam(plain, lr=stepper.learning_rate, betas=stepper.settings.betas, foreach=False)
    for copy, parameter in zip(plain, stepper.parameters, strict=True):
        optimiser.state[copy] = {name: value.clone() for name, value in stepper.optimiser.state[parameter].items()}
    stepper.step(reader.read(1).raw_BSD, logged=False)
    for copy, parameter in zip(plain, stepper.parameters, strict=True):
        copy.grad = parameter.grad
    optimiser.step()
    for copy, parameter in zip(plain, stepper.parameters, strict=True):
        torch.testing.assert_close(copy, parameter.detach())


def test_unit_decoder_is_of_norm_one_after_every_step(activations: Path) -> None:
    stepper, reader = stepper_of(activations, uneven_settings(decoder="unit", nonlinearity="relu", k=None))
    for batch in reader.batches():
        before_LSD = stepper.crosscoder.W_dec.detach().clone()
        stepper.step(batch.raw_BSD, logged=False)
        after_LSD = stepper.crosscoder.W_dec.detach()
        assert after_LSD.flatten(1).norm(dim=1).sub(1).abs().max() < 1e-6
        gradient_LSD = stepper.crosscoder.W_dec.grad
        assert gradient_LSD is not None
        along_L = (gradient_LSD * before_LSD).sum((1, 2)).abs()
        assert (along_L < 1e-5 * gradient_LSD.flatten(1).norm(dim=1) + 1e-7).all()
        assert not torch.equal(before_LSD, after_LSD)


def test_gradients_are_clipped_to_the_norm_asked_for(activations: Path) -> None:
    free, clipped, tight = (stepper_of(activations, uneven_settings(gradient_clip=clip)) for clip in (None, 1e9, 1e-3))
    for stepper, reader in (free, clipped, tight):
        stepper.step(reader.read(0).raw_BSD, logged=False)
    moments = [stepper.optimiser.state[stepper.crosscoder.W_dec]["exp_avg"] for stepper, _ in (free, clipped, tight)]
    assert torch.equal(moments[0], moments[1])
    # Adam's first moment is a tenth of the gradient after one step.
    total = sum(10 * state["exp_avg"].norm().item() ** 2 * 10 for state in tight[0].optimiser.state.values())
    assert total**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_tied_sites_start_from_one_draw_and_the_encoder_is_the_decoder_transposed(activations: Path) -> None:
    tied, _ = stepper_of(activations, uneven_settings(decoder_norm=0.3))
    independent, _ = stepper_of(activations, uneven_settings(decoder_norm=0.3, initialisation="independent"))
    for stepper in (tied, independent):
        W_dec_LSD = stepper.crosscoder.W_dec
        assert torch.equal(stepper.crosscoder.W_enc, W_dec_LSD.permute(1, 2, 0))
        norms_LS = stepper.crosscoder.decoder_norms()
        torch.testing.assert_close(norms_LS, torch.full_like(norms_LS, 0.3))
        assert torch.equal(W_dec_LSD[:, 0], W_dec_LSD[:, 1]) == (stepper is tied)


@pytest.mark.parametrize("recipe", [{}, JUMPRELU])
def test_searched_decoder_norm_is_the_best_on_the_first_batch(recipe: dict[str, Any], activations: Path) -> None:
    stepper, reader = stepper_of(activations, uneven_settings(decoder_norm="search", **recipe))
    x_BSD = scaled(stepper, reader.read(0).raw_BSD)

    def error() -> float:
        return stepper.objective(x_BSD, 0.0, stepper.dead_N).reconstruction.item()

    found, norm = error(), stepper.crosscoder.decoder_norms()[0, 0].item()
    for other in (0.5 * norm, 0.9 * norm, 1.1 * norm, 2 * norm):
        with torch.no_grad():
            stepper.crosscoder.W_dec.copy_(unit_decoder(stepper.settings, 16) * other)
            stepper.crosscoder.W_enc.copy_(stepper.crosscoder.W_dec.permute(1, 2, 0))
        assert error() > found


def test_learning_rate_rises_stays_and_falls() -> None:
    factors = [learning_rate_factor(step, 100, 0.1, 0.2) for step in range(100)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert set(factors[9:81]) == {1.0}
    assert factors[-2:] == pytest.approx([0.1, 0.05])
    assert [learning_rate_factor(step, 10, 0.0, 0.0) for step in (0, 9)] == [1.0, 1.0]


def test_sparsity_rises_from_nothing() -> None:
    assert [sparsity_factor(step, 100, 0.1) for step in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]
    assert sparsity_factor(0, 100, 0.0) == 1.0


def test_training_log_is_whole_and_does_not_depend_on_how_often_it_is_written(
    activations: Path, tmp_path: Path
) -> None:
    logs = {}
    for every in (4, 8):
        folder = tmp_path / str(every)
        train_small(folder, uneven_settings(log_every=every, dead={"policy": "auxk", "after_rows": 256}), activations)
        logs[every] = pd.read_csv(folder / "run" / "training.csv")
        assert list(logs[every].columns) == COLUMNS
        assert logs[every]["step"].tolist() == [1, *range(every, 33, every)]
    assert (logs[8]["rows"] == 128 * logs[8]["step"]).all()
    common = logs[4][logs[4]["step"].isin(logs[8]["step"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(common, logs[8])
    parts = logs[4][["reconstruction", "sparsity", "auxiliary"]].sum(axis=1)
    assert np.allclose(parts, logs[4]["loss"])
    assert logs[4]["loss"].iloc[-1] < 0.9 * logs[4]["loss"].iloc[0]
    assert logs[4]["l0"].tolist() == pytest.approx([2.0] * 9)


def test_logged_fvu_is_one_for_the_mean_and_l0_counts_sites_under_gate_site(activations: Path) -> None:
    stepper, reader = stepper_of(activations, uneven_settings(**JUMPRELU, gate="site"))
    raw_BSD = torch.cat([batch.raw_BSD for batch in reader.batches()])
    expected = stepper.crosscoder.encode(raw_BSD.to(stepper.ranks.device)).count_nonzero().item() / (len(raw_BSD) * 3)
    measured = stepper.step(raw_BSD, logged=True)
    assert measured is not None
    assert measured["l0"] == pytest.approx(expected)
    with torch.no_grad():
        stepper.crosscoder.W_dec.zero_()
        stepper.crosscoder.b_dec.copy_(stepper.mean_SD)
    measured = stepper.step(raw_BSD, logged=True)
    assert measured is not None
    assert measured["fvu"] == pytest.approx(1.0, rel=1e-4)


def test_latents_silent_for_long_enough_are_called_dead(activations: Path) -> None:
    stepper, reader = stepper_of(
        activations, uneven_settings(latents=64, dead={"policy": "auxk", "after_rows": 512, "k": 4})
    )
    with torch.no_grad():
        stepper.crosscoder.W_enc[:, :, 7] = 0.0
        stepper.crosscoder.b_enc[7] = -1.0
    for batch in itertools.islice(reader.batches(), STEPS_BETWEEN_ROLL_CALLS):
        assert len(stepper.dead_N) == 0
        stepper.step(batch.raw_BSD, logged=False)
    assert 7 in stepper.dead_N
    assert stepper.silent_L[7] == STEPS_BETWEEN_ROLL_CALLS * 128
    assert (stepper.silent_L[stepper.dead_N] >= 512).all()


def test_auxk_brings_dead_latents_back_to_use(tmp_path: Path) -> None:
    activations = write_activations(tmp_path / "activations", planted(8192, features=64, active=3.0).raw_BSD, 8192)
    last = {}
    for policy in ("none", "auxk"):
        dead = {"policy": policy, "after_rows": 1024, "k": 16}
        settings = run_settings(8192, latents=64, k=3, epochs=4, learning_rate=1e-2, dead=dead)
        train_small(tmp_path / policy, settings, activations)
        last[policy] = pd.read_csv(tmp_path / policy / "run" / "training.csv").iloc[-1]
    assert last["auxk"]["dead"] < 0.8 * last["none"]["dead"]
    assert last["auxk"]["fvu"] < 0.8 * last["none"]["fvu"]


def test_a_loss_that_is_not_finite_stops_with_step_sites_and_rows(activations: Path, tmp_path: Path) -> None:
    settings = uneven_settings(learning_rate=1e30, log_every=1000, save_every=1000, warmup=0.0)
    with pytest.raises(UserError, match=r"step 2 of 32: .* not finite at neox/step0/.*train-0000.\[.*learning_rate"):
        train_small(tmp_path, settings, activations)
    assert not (tmp_path / "run").exists()


def test_nothing_changes_from_the_faulty_step_on_and_its_site_is_named(activations: Path) -> None:
    stepper, reader = stepper_of(activations, uneven_settings())
    good, bad = reader.read(0).raw_BSD, reader.read(1).raw_BSD
    bad[5, 1, 3] = torch.inf
    stepper.step(good, logged=False)
    before = {name: tensor.clone() for name, tensor in stepper.state().items() if "silent" not in name}
    for raw_BSD in (bad, good):
        stepper.step(raw_BSD, logged=False)
    assert stepper.first_faulty == 1
    after = stepper.state()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) or name in ("crosscoder.threshold", "dead_N"), name
    assert stepper.faulty_sites(bad) == [sites_of(3)[1].key]
