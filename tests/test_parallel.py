"""A run of several processes is the run of one: its gradients, its losses and its files."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crosscoder_runs import run_settings, stepper_of
from devices import random
from parallel_runs import (
    D_MODEL,
    GRIDS,
    RUNS,
    SITES,
    assert_same_run,
    of_sites,
    ranks_of,
    train_all,
    train_alone,
    write_five_sites,
)
from rank_processes import in_processes
from test_loss import RECIPES
from torch import Tensor, nn

from ontogeny.activations.reader import Reader
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.initialisation import unit_decoder
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.objective import Objective
from ontogeny.crosscoder.optimisation import project_out, restore_unit_norm, share_gradients, whole_norm
from ontogeny.crosscoder.parallel import ALONE, Ranks
from ontogeny.crosscoder.resampling import resample
from ontogeny.crosscoder.trainer import train
from ontogeny.randomness import generator

ROWS = 20
AUXK: dict[str, Any] = {"policy": "auxk", "k": 2, "coefficient": 0.5}
CASES: list[dict[str, Any]] = [
    *({**recipe, "dead": AUXK} for recipe in RECIPES),
    *({**recipe, "pre_bias": True, "site_error": "mean"} for recipe in RECIPES[3::4]),
]


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_five_sites(tmp_path_factory.mktemp("activations"))


@pytest.fixture(scope="module")
def alone(activations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_alone(activations, tmp_path_factory.mktemp("alone"))


def objective_of(settings: RunSettings, ranks: Ranks, sparse: bool) -> Objective:
    """Make a crosscoder of random weights in float64, of the sites of this process."""
    own = ranks.own_sites(SITES)
    recipe = settings.nonlinearity, settings.gate, settings.k, settings.pre_bias
    crosscoder = Crosscoder(settings.sites[own], D_MODEL, settings.latents, *recipe).double()
    whole = Crosscoder(settings.sites, D_MODEL, settings.latents, *recipe)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(whole.named_parameters()):
            value = 0.5 * random(*parameter.shape, seed=seed + 1)
            getattr(crosscoder, name).copy_(of_sites(name, value, own))
    log_threshold_L = None
    if settings.nonlinearity == "jumprelu":
        log_threshold_L = nn.Parameter(0.1 * random(settings.latents) - 1.0)
        crosscoder.thresholds().copy_(log_threshold_L.detach().exp())
    return Objective(crosscoder, settings, log_threshold_L, sparse, ranks)


def differentiated(settings: RunSettings, ranks: Ranks, sparse: bool) -> dict[str, Tensor]:
    """Compute everything that a step changes parameters by, and what it logs."""
    objective = objective_of(settings, ranks, sparse)
    x_BSD = random(ROWS, SITES, D_MODEL, seed=50)[ranks.own_rows(ROWS), ranks.own_sites(SITES)]
    terms = objective(
        x_BSD, 0.7, torch.tensor([1, 4, 5, 9] if settings.dead.policy == "auxk" else [], dtype=torch.int64)
    )
    terms.loss.backward()  # type: ignore[no-untyped-call]
    parameters = dict(objective.crosscoder.named_parameters())
    alike = [objective.crosscoder.b_enc]
    if objective.log_threshold_L is not None:
        parameters["log_threshold_L"] = objective.log_threshold_L  # type: ignore[assignment]
        alike.append(objective.log_threshold_L)  # type: ignore[arg-type]
    share_gradients(parameters.values(), alike, ranks)
    found = {"norm": whole_norm(parameters.values(), alike, terms.loss.detach(), ranks)[0]}
    found |= {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    sparsity = terms.sparsity if ranks.site == 0 else torch.zeros_like(terms.sparsity)
    found |= {"losses": ranks.total(torch.stack((terms.reconstruction, sparsity, terms.auxiliary)))}
    W_dec = objective.crosscoder.W_dec
    with torch.no_grad():
        projected_LSD = found["W_dec"].clone()
        project_out(projected_LSD, W_dec, ranks)
        restore_unit_norm(W_dec, ranks)
    return {**found, "projected": projected_LSD, "unit": W_dec.detach()}


def all_differentiated(ranks: Ranks) -> list[dict[str, Tensor]]:
    cases = [run_settings(1, sites=SITES, **case) for case in CASES]
    return [differentiated(case, ranks, sparse) for case in cases for sparse in (True, False)]


@pytest.mark.parametrize(("processes", "data_ranks"), GRIDS)
def test_p12_gradients_of_several_processes_are_those_of_one(processes: int, data_ranks: int, tmp_path: Path) -> None:
    expected = all_differentiated(ALONE)
    for number, found in enumerate(in_processes(processes, data_ranks, all_differentiated, tmp_path)):
        own = ranks_of(number, processes, data_ranks).own_sites(SITES)
        for case, one, other in zip(itertools.product(CASES, (True, False)), expected, found, strict=True):
            assert one.keys() == other.keys()
            for name, value in one.items():
                whole = of_sites({"projected": "W_dec", "unit": "W_dec"}.get(name, name), value, own)
                assert torch.allclose(other[name], whole, rtol=1e-6, atol=1e-9), f"{case}: {name}"


def test_every_site_and_row_has_one_owner() -> None:
    for sites, site_ranks in itertools.product((5, 8, 13), (1, 2, 4, 5)):
        owned = [range(sites)[Ranks(site, site_ranks).own_sites(sites)] for site in range(site_ranks)]
        assert [site for part in owned for site in part] == list(range(sites))
        assert max(map(len, owned)) - min(map(len, owned)) <= 1
    assert [Ranks(data=data, data_ranks=4).own_rows(12) for data in range(4)] == [slice(n, n + 3) for n in (0, 3, 6, 9)]


@pytest.mark.parametrize("initialisation", ["tied", "independent"])
def test_first_weights_of_a_site_do_not_depend_on_who_owns_it(initialisation: str) -> None:
    settings = run_settings(1, sites=SITES, latents=1500, initialisation=initialisation)
    whole_LSD = unit_decoder(settings, D_MODEL)
    for site in range(4):
        own = Ranks(site, 4).own_sites(SITES)
        assert torch.equal(unit_decoder(settings, D_MODEL, own), whole_LSD[:, own])


def test_shares_of_a_batch_are_its_rows_in_order(activations: Path) -> None:
    settings = RUNS["batchtopk"]
    common = settings.shards, settings.batch_size, settings.epochs, settings.seed
    whole = Reader(activations, settings.sites, *common)
    parts = [Reader(activations, settings.sites[1:3], *common, Ranks(0, 1, n, 4).own_rows(128)) for n in range(4)]
    for step in (0, 17, 31):
        batches = [part.read(step) for part in parts]
        assert np.array_equal(np.concatenate([batch.row_ids_B for batch in batches]), whole.read(step).row_ids_B)
        assert torch.equal(torch.cat([batch.raw_BSD for batch in batches]), whole.read(step).raw_BSD[:, 1:3])
        assert parts[0].describe(step) == whole.describe(step)
    samples = [next(iter(reader.sample(128, 0))) for reader in (whole, parts[3])]
    assert torch.equal(samples[0].raw_BSD[:, 1:3], samples[1].raw_BSD)


@pytest.mark.parametrize(("processes", "data_ranks"), [(2, 1), (4, 1), (4, 2)])
def test_several_processes_give_the_losses_and_files_of_one(
    processes: int, data_ranks: int, activations: Path, alone: Path, tmp_path: Path
) -> None:
    in_processes(processes, data_ranks, lambda ranks: train_all(ranks, activations, tmp_path), tmp_path)
    for name in RUNS:
        assert_same_run(tmp_path / name / "run", alone / name / "run")
        assert not (tmp_path / name / "state").exists()


def test_each_process_opens_the_shards_of_its_own_sites_alone(activations: Path, alone: Path, tmp_path: Path) -> None:
    settings = RUNS["batchtopk"]

    def work(ranks: Ranks) -> None:
        own = tmp_path / f"activations-{ranks.number}"
        shutil.copytree(activations, own)
        for site in set(settings.sites) - set(settings.sites[ranks.own_sites(SITES)]):
            for shard in (own / site.key).glob("*.h5"):
                shard.unlink()
        train(settings, own, tmp_path / "state", tmp_path / "run", ranks=ranks)

    in_processes(2, 1, work, tmp_path)
    assert_same_run(tmp_path / "run", alone / "batchtopk" / "run")


@pytest.mark.parametrize(("processes", "data_ranks"), GRIDS[2:])
def test_dead_latents_start_again_as_in_one_process(
    processes: int, data_ranks: int, activations: Path, tmp_path: Path
) -> None:
    dead = [3, 17, 30]

    def work(ranks: Ranks) -> list[dict[str, Tensor]]:
        found = []
        for name in ("jumprelu", "site", "batchtopk"):
            stepper, reader = stepper_of(
                activations, RUNS[name].model_copy(update={"dead": RUNS["jumprelu"].dead}), ranks
            )
            for step in range(5):
                stepper.step(reader.read(step).raw_BSD, logged=False)
            stepper.silent_L.zero_()[dead] = 10**6
            raw_batches = (batch.raw_BSD for batch in reader.sample(512, 0))
            assert resample([stepper], raw_batches, generator(0, "x")) == [len(dead)]
            found.append({key: value.clone() for key, value in stepper.state().items()})
        return found

    expected = work(ALONE)
    for number, found in enumerate(in_processes(processes, data_ranks, work, tmp_path)):
        own = ranks_of(number, processes, data_ranks).own_sites(SITES)
        for one, other in zip(expected, found, strict=True):
            for name in ("W_enc_LSD", "W_dec", "b_enc", "b_dec"):
                key = f"crosscoder.{name}"
                torch.testing.assert_close(other[key], of_sites(name, one[key], own), rtol=1e-4, atol=1e-5, msg=key)
            assert other["silent_L"][dead].tolist() == [0, 0, 0]
