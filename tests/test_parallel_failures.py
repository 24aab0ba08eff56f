"""Runs of several processes stop together, say why once, and go on with as many as there are."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from crosscoder_runs import stepper_of
from parallel_runs import (
    ENDS,
    RUNS,
    assert_same_run,
    stopped_at,
    train_all,
    train_alone,
    write_five_sites,
)
from rank_processes import in_processes
from torch import Tensor

from ontogeny.activations.store import open_shard, write_shard
from ontogeny.crosscoder.gathering import SITE_AXES
from ontogeny.crosscoder.joining import joined
from ontogeny.crosscoder.parallel import Ranks
from ontogeny.crosscoder.state import Interrupted
from ontogeny.crosscoder.step import Stepper
from ontogeny.crosscoder.trainer import train
from ontogeny.errors import UserError


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_five_sites(tmp_path_factory.mktemp("activations"))


@pytest.fixture(scope="module")
def alone(activations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_alone(activations, tmp_path_factory.mktemp("alone"))


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
