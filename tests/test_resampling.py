"""Dead latents start again from badly reconstructed rows, and nothing else changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crosscoder_runs import bytes_of, planted, run_settings, scaled, stepper_of, train_small, write_activations
from torch import Tensor
from torch.nn import functional

from ontogeny.activations.reader import Reader
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.resampling import resample, resampling_due
from ontogeny.crosscoder.step import Stepper
from ontogeny.randomness import generator

ROWS = 4096
DEAD = [3, 17, 30]


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_activations(tmp_path_factory.mktemp("activations"), planted(ROWS).raw_BSD, ROWS)


def settings_of(**changes: Any) -> RunSettings:
    plain: dict[str, Any] = {
        "nonlinearity": "relu",
        "k": None,
        "penalty": "l1",
        "sparsity": 0.1,
        "dead": {"policy": "resample", "interval": 4, "times": 2, "candidates": 1024},
    }
    return run_settings(ROWS, **{**plain, **changes})


def trained(activations: Path, settings: RunSettings) -> tuple[Stepper, Reader]:
    """Take five steps, and pretend that three latents were silent all along and the others were not."""
    stepper, reader = stepper_of(activations, settings)
    for step in range(5):
        stepper.step(reader.read(step).raw_BSD, logged=False)
    with torch.no_grad():
        stepper.crosscoder.b_enc[DEAD] = -0.5
    stepper.silent_L.zero_()
    stepper.silent_L[DEAD] = 2 * settings.batch_size
    return stepper, reader


def sampled(reader: Reader) -> list[Tensor]:
    return [batch.raw_BSD for batch in reader.sample(1024, 0)]


@pytest.mark.parametrize("recipe", [{}, {"nonlinearity": "jumprelu", "gate": "site", "penalty": "tanh_quad"}])
def test_only_dead_latents_and_their_moments_change(activations: Path, recipe: dict[str, Any]) -> None:
    stepper, reader = trained(activations, settings_of(**recipe))
    before = {name: tensor.clone() for name, tensor in stepper.state().items()}
    assert resample([stepper], sampled(reader), generator(0, "resample", 0)) == [len(DEAD)]
    changed = []
    for name, after in stepper.state().items():
        by_latent = after.ndim > 0 and len(after) == stepper.settings.latents
        alive = [latent for latent in range(stepper.settings.latents) if latent not in DEAD]
        assert torch.equal(after[alive] if by_latent else after, before[name][alive] if by_latent else before[name])
        if by_latent and name.startswith("adam."):
            assert after[DEAD].abs().sum() == 0
        if by_latent and not torch.equal(after[DEAD], before[name][DEAD]):
            changed.append(name)
    assert {"crosscoder.W_dec", "crosscoder.W_enc_LSD", "crosscoder.b_enc", "silent_L"} <= set(changed)


def test_a_latent_starts_as_one_row_of_norm_one_with_a_fifth_of_the_living_encoder(activations: Path) -> None:
    stepper, reader = trained(activations, settings_of())
    alive = [latent for latent in range(stepper.settings.latents) if latent not in DEAD]
    living = stepper.crosscoder.W_enc_LSD.detach()[alive].flatten(1).norm(dim=1).mean()
    batches = sampled(reader)
    resample([stepper], batches, generator(0, "resample", 0))
    rows_RM = functional.normalize(scaled(stepper, torch.cat(batches)).flatten(1), dim=1)
    decoder_NM = stepper.crosscoder.W_dec.detach()[DEAD].flatten(1)
    cosine_NR = decoder_NM @ rows_RM.T
    torch.testing.assert_close(cosine_NR.amax(1), torch.ones_like(cosine_NR[:, 0]))
    assert len(set(cosine_NR.argmax(1).tolist())) == len(DEAD)
    torch.testing.assert_close(stepper.crosscoder.W_enc_LSD.detach()[DEAD].flatten(1), decoder_NM * (0.2 * living))
    assert stepper.crosscoder.b_enc[DEAD].tolist() == [0.0] * len(DEAD)


def test_rows_are_drawn_with_the_square_of_their_loss(activations: Path) -> None:
    stepper, reader = trained(activations, settings_of(sparsity=0.0))
    raw_BSD = reader.read(6).raw_BSD[:4]
    loss_B = stepper.row_losses(raw_BSD)[0].double()
    unit_BM = functional.normalize(scaled(stepper, raw_BSD).flatten(1), dim=1)
    dead = torch.zeros_like(stepper.silent_L)
    dead[3] = 10**6
    state = {name: tensor.clone() for name, tensor in stepper.state().items()}
    drawn = np.zeros(4)
    for counter in range(2000):
        stepper.load_state(5, state)
        stepper.silent_L = dead.clone()
        resample([stepper], [raw_BSD[:1], raw_BSD[1:]], generator(0, "resample", counter))
        drawn[int((unit_BM @ stepper.crosscoder.W_dec.detach()[3].flatten()).argmax())] += 1
    expected = 2000 * (loss_B.square() / loss_B.square().sum()).cpu().numpy()
    assert (((drawn - expected) ** 2 / expected).sum()) < 16.3, "chi-square, 3 degrees of freedom, p = 0.001"


def test_row_losses_average_to_the_loss_of_the_batch(activations: Path) -> None:
    for recipe in ({}, {"nonlinearity": "jumprelu", "gate": "site", "penalty": "tanh"}, {"site_error": "mean"}):
        stepper, reader = trained(activations, settings_of(**recipe))
        raw_BSD = reader.read(6).raw_BSD
        terms = stepper.objective(scaled(stepper, raw_BSD), stepper.coefficient, stepper.dead_N)
        torch.testing.assert_close(stepper.row_losses(raw_BSD)[0].mean(), terms.loss.detach())


def test_fewer_rows_than_dead_latents_wake_as_many_as_there_are(activations: Path) -> None:
    stepper, reader = trained(activations, settings_of())
    assert resample([stepper], [reader.read(6).raw_BSD[:2]], generator(0, "resample", 0)) == [2]
    assert (stepper.silent_L > 0).sum() == 1


def test_resampling_comes_after_every_interval_until_it_is_done() -> None:
    assert [step for step in range(30) if resampling_due(step, 4, 3) is not None] == [4, 8, 12]
    assert [resampling_due(step, 4, 3) for step in (4, 8, 12)] == [0, 1, 2]


def test_latents_that_nothing_would_train_any_more_do_not_start_again(activations: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"nonlinearity": "topk", "k": 1, "penalty": "none", "sparsity": None, "latents": 512}
    policies = {"none": {"policy": "none"}}
    policies |= {str(times): {"policy": "resample", "interval": 16, "times": times} for times in (1, 2)}
    found = {
        name: train_small(tmp_path / name, settings_of(**recipe, dead=dead), activations).W_dec
        for name, dead in policies.items()
    }
    assert ROWS // 128 == 2 * 16, "the second time would be after the last step"
    assert torch.equal(found["2"], found["1"])
    assert not torch.equal(found["1"], found["none"])


def test_a_sample_repeats_no_row_and_belongs_to_its_counter(activations: Path) -> None:
    settings = settings_of()
    reader = Reader(activations, settings.sites, settings.shards, settings.batch_size, settings.epochs, settings.seed)
    first, again, other = (
        np.concatenate([batch.row_ids_B for batch in reader.sample(1000, counter)]) for counter in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == len(set(first.tolist())) == 1024
    everything = np.concatenate([batch.row_ids_B for batch in reader.sample(10**9, 0)])
    assert len(everything) == len(set(everything.tolist())) == ROWS


def test_resampling_lowers_the_share_of_the_dead(activations: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"latents": 256, "epochs": 4, "sparsity": 1.0, "sparsity_warmup": 0.0}
    plain = train_small(tmp_path / "plain", settings_of(**recipe, dead={"policy": "none"}), activations)
    dead = {"policy": "resample", "interval": 20, "times": 4}
    woken = train_small(tmp_path / "woken", settings_of(**recipe, dead=dead), activations)
    raw_BSD = torch.from_numpy(planted(ROWS).raw_BSD)
    alive = [int((crosscoder.encode(raw_BSD).amax(0) > 0).sum()) for crosscoder in (plain, woken)]
    assert alive[1] > alive[0]
    assert bytes_of(tmp_path / "woken" / "run") != bytes_of(tmp_path / "plain" / "run")
