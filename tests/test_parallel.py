"""A run of several processes is the run of one: its gradients, its losses, its states and its files."""

import itertools
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosscoder_runs import planted, run_settings, write_activations
from rank_processes import in_processes
from test_loss import RECIPES, random
from torch import Tensor, nn

from ontogeny.activations.reader import Reader
from ontogeny.activations.statistics import read_statistics
from ontogeny.activations.store import open_shard, write_shard
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.gathering import SITE_AXES
from ontogeny.crosscoder.initialisation import unit_decoder
from ontogeny.crosscoder.joining import joined
from ontogeny.crosscoder.model import Crosscoder, load_crosscoder
from ontogeny.crosscoder.objective import Objective
from ontogeny.crosscoder.optimisation import project_out, restore_unit_norm, share_gradients, whole_norm
from ontogeny.crosscoder.parallel import ALONE, Ranks
from ontogeny.crosscoder.resampling import resample
from ontogeny.crosscoder.state import Interrupted
from ontogeny.crosscoder.step import Stepper
from ontogeny.crosscoder.trainer import train
from ontogeny.errors import UserError
from ontogeny.randomness import generator

SITES, D_MODEL, ROWS = 5, 6, 20
GRIDS = [(2, 1), (4, 1), (2, 2), (4, 2)]
"""Processes, and how many of them divide the rows."""
AUXK: dict[str, Any] = {"policy": "auxk", "k": 2, "coefficient": 0.5}
CASES: list[dict[str, Any]] = [
    *({**recipe, "dead": AUXK} for recipe in RECIPES),
    *({**recipe, "pre_bias": True, "site_error": "mean"} for recipe in RECIPES[3::4]),
]


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


def of_sites(name: str, value: Tensor, own: slice) -> Tensor:
    """Cut some sites out of a tensor of all."""
    axis = SITE_AXES.get(name)
    return value if axis is None else value[(slice(None),) * axis + (own,)]


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


def ranks_of(number: int, processes: int, data_ranks: int) -> Ranks:
    site_ranks = processes // data_ranks
    return Ranks(number % site_ranks, site_ranks, number // site_ranks, data_ranks)


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


JUMPRELU: dict[str, Any] = {"nonlinearity": "jumprelu", "k": None, "penalty": "tanh_quad", "sparsity": 0.1}
RESAMPLE: dict[str, Any] = {"policy": "resample", "interval": 8, "times": 3, "candidates": 512}
RECIPES_TO_TRAIN: dict[str, dict[str, Any]] = {
    "batchtopk": {"dead": {"policy": "auxk", "after_rows": 512, "k": 4}, "decoder_norm": "search", "center": True},
    "topk": {"nonlinearity": "topk", "k": 3, "penalty": "l1", "sparsity": 0.1, "site_error": "mean"},
    "relu": {"nonlinearity": "relu", "k": None, "decoder": "unit", "initialisation": "independent", "pre_bias": True},
    "jumprelu": {**JUMPRELU, "dead": RESAMPLE, "latents": 64},
    "site": {**JUMPRELU, "gate": "site", "gradient_clip": 0.1},
}
RUNS = {
    name: run_settings(4096, 2, sites=SITES, learning_rate=1e-3, log_every=3, save_every=20, **recipe)
    for name, recipe in RECIPES_TO_TRAIN.items()
}


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw_BSD = planted(4096, SITES, norms=(1.0, 10.0, 100.0, 1.0, 1.0)).raw_BSD
    return write_activations(tmp_path_factory.mktemp("activations"), raw_BSD, 2048)


def train_all(ranks: Ranks, activations: Path, folder: Path, names: Iterable[str] = RUNS) -> None:
    for name in names:
        train(RUNS[name], activations, folder / name / "state", folder / name / "run", ranks=ranks)


@pytest.fixture(scope="module")
def alone(activations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every run in one process."""
    folder = tmp_path_factory.mktemp("alone")
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


@pytest.mark.parametrize(("processes", "data_ranks"), [(2, 1), (4, 1), (4, 2)])
def test_several_processes_give_the_losses_and_files_of_one(
    processes: int, data_ranks: int, activations: Path, alone: Path, tmp_path: Path
) -> None:
    in_processes(processes, data_ranks, lambda ranks: train_all(ranks, activations, tmp_path), tmp_path)
    for name in RUNS:
        assert_same_run(tmp_path / name / "run", alone / name / "run")
        assert not (tmp_path / name / "state").exists()


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


@pytest.mark.parametrize(("before", "after"), [((2, 1), (1, 1)), ((1, 1), (4, 2)), ((4, 2), (2, 1))])
def test_a_run_goes_on_with_another_number_of_processes(
    before: tuple[int, int], after: tuple[int, int], activations: Path, alone: Path, tmp_path: Path
) -> None:
    names = ("batchtopk", "jumprelu", "site")

    def stop(ranks: Ranks) -> list[int]:
        return [int(stopped_at(13, RUNS[name], ranks, activations, tmp_path / name)["steps"]) for name in names]

    def go_on(ranks: Ranks) -> None:
        train_all(ranks, activations, tmp_path, names)

    assert in_processes(*before, stop, tmp_path) == [[13] * len(names)] * before[0]
    assert (tmp_path / "site" / "state" / "state-000000013.safetensors").exists()
    in_processes(*after, go_on, tmp_path)
    for name in names:
        assert_same_run(tmp_path / name / "run", alone / name / "run")


def test_p11_every_process_gets_back_its_own_state(activations: Path, tmp_path: Path) -> None:
    names = ("jumprelu", "site")

    def stop_and_load(ranks: Ranks) -> list[dict[str, Tensor]]:
        found = []
        for name in names:
            settings, loaded = RUNS[name], {}
            before = stopped_at(13, settings, ranks, activations, tmp_path / name)

            def keep(self: Stepper, *_: object, loaded: dict[str, Tensor] = loaded) -> None:
                loaded.update(self.state(), steps=torch.tensor(self.steps_done))
                raise Interrupted

            with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
                patched.setattr(Stepper, "step", keep)
                train(settings, activations, tmp_path / name / "state", tmp_path / name / "run", ranks=ranks)
            assert loaded.keys() == before.keys()
            assert [key for key, value in before.items() if not torch.equal(loaded[key], value)] == []
            found.append(before)
        return found

    processes = in_processes(4, 2, stop_and_load, tmp_path)
    for number, case in itertools.product(range(4), range(len(names))):
        first, own = processes[0][case], processes[number][case]
        for name, value in own.items():
            has_sites = name.removeprefix("crosscoder.") in SITE_AXES or name.split(".")[1:2] in (["0"], ["2"], ["3"])
            if number % 2 == 0 or not has_sites:
                assert torch.equal(value, first[name]), f"{name} differs between processes that have it alike"
            elif "W_dec" in name:
                assert value.shape != first[name].shape, "five sites are two and three"


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


ENDS = "ends with code 1"


def test_what_cannot_be_divided_is_refused_by_one_process_alone(activations: Path, tmp_path: Path) -> None:
    def work(ranks: Ranks, **changes: Any) -> None:
        settings = RUNS["batchtopk"].model_copy(update=changes)
        train(settings, activations, tmp_path / "state", tmp_path / "run", ranks=ranks)

    few = {"sites": RUNS["batchtopk"].sites[:1]}
    said = in_processes(2, 1, lambda ranks: work(ranks, **few), tmp_path / "sites")
    assert said[0].startswith("crosscoder: 1 sites are too few for 2 processes; start fewer")
    assert said[1] == ENDS
    said = in_processes(2, 2, lambda ranks: work(ranks, batch_size=127), tmp_path / "rows")
    assert said == ["--data-ranks 2: it does not divide the dictionary's batch_size 127", ENDS]
    said = in_processes(3, 2, work, tmp_path / "ranks")
    assert said == ["--data-ranks 2: it does not divide 3 processes", ENDS, ENDS]
    with pytest.raises(UserError, match="--data-ranks 2: there is one process"), joined(2):
        pass
    assert not (tmp_path / "run").exists()


def test_p2_sites_of_two_processes_with_different_rows_are_refused(activations: Path, tmp_path: Path) -> None:
    shutil.copytree(activations, tmp_path / "activations")
    sites = RUNS["batchtopk"].sites
    for site in sites[2:]:  # all that the second process owns, so that none of its own sites disagrees
        for name in RUNS["batchtopk"].shards:
            path = tmp_path / "activations" / site.key / f"{name}.h5"
            values = open_shard(path).read(0, 2048)
            write_shard(path, values, site, "other rows", "float16", {})

    def work(ranks: Ranks) -> None:
        train(RUNS["batchtopk"], tmp_path / "activations", tmp_path / "state", tmp_path / "run", ranks=ranks)

    said = in_processes(2, 1, work, tmp_path / "work")
    assert said[0].startswith(
        f"{tmp_path / 'activations'}: rows or widths of {sites[2].key} are not those of {sites[0].key}"
    )
    assert said[1] == ENDS


def test_a_loss_that_is_not_finite_ends_all_processes_with_one_error(activations: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 1e30, "warmup": 0.0, "log_every": 1000, "gradient_clip": None}
    settings = RUNS["relu"].model_copy(update=changes)

    def work(ranks: Ranks) -> None:
        train(settings, activations, tmp_path / "state", tmp_path / "run", ranks=ranks)

    with pytest.raises(UserError) as expected:
        train(settings, activations, tmp_path / "state", tmp_path / "run")
    assert in_processes(4, 2, work, tmp_path / "work") == [str(expected.value), ENDS, ENDS, ENDS]
    assert not (tmp_path / "run").exists()


def test_the_faulty_site_is_named_whoever_owns_it(activations: Path, tmp_path: Path) -> None:
    settings = RUNS["batchtopk"]

    def work(ranks: Ranks) -> tuple[int, list[str]]:
        stepper, reader = stepper_of(activations, settings, ranks)
        raw_BSD = reader.read(0).raw_BSD
        if ranks.number == 3:
            raw_BSD[5, 1, 3] = torch.inf
        stepper.step(raw_BSD, logged=False)
        stepper.step(reader.read(1).raw_BSD, logged=False)
        return int(stepper.first_faulty), stepper.faulty_sites(raw_BSD)

    assert in_processes(4, 2, work, tmp_path) == [(0, [settings.sites[3].key])] * 4


def stepper_of(activations: Path, settings: RunSettings, ranks: Ranks) -> tuple[Stepper, Reader]:
    sites, rows = settings.sites[ranks.own_sites(SITES)], ranks.own_rows(settings.batch_size)
    reader = Reader(activations, sites, settings.shards, settings.batch_size, settings.epochs, settings.seed, rows)
    statistics = [read_statistics(activations / site.key / "statistics.json") for site in settings.sites]
    stepper = Stepper(settings, reader.steps, reader.d_model, statistics, ranks)
    stepper.initialise(reader.read(0).raw_BSD)
    return stepper, reader


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
            assert resample(stepper, (batch.raw_BSD for batch in reader.sample(512, 0)), generator(0, "x")) == len(dead)
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
