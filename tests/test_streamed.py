"""Streamed activations are the cached ones, to the byte, and no file holds them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from crosscoder_runs import bytes_of, train_small
from parallel_runs import assert_same_run
from planted_runs import planted_model, write_rows_file
from rank_processes import in_processes
from streamed_study import (
    HELDOUT_SHARDS,
    OPEN_SHARDS,
    ROWS_PER_SHARD,
    SITES,
    TRAIN_SHARDS,
    activation_files,
    make_study,
    settings_of,
    stream_statistics,
)
from test_state import is_waiting_for_sigterm, started, wait_for_states

from ontogeny.activations.planted import write_planted
from ontogeny.activations.reader import Reader
from ontogeny.activations.source import source_of
from ontogeny.activations.store import open_aligned
from ontogeny.activations.streaming import ROWS_RUN
from ontogeny.config.evaluation import FeatureSettings
from ontogeny.config.streamed import FILE, StreamedSettings
from ontogeny.crosscoder.parallel import Ranks
from ontogeny.crosscoder.sweep_trainer import train_sweep
from ontogeny.crosscoder.trainer import train
from ontogeny.errors import UserError
from ontogeny.evaluation.features import write_features
from ontogeny.evaluation.reconstruction import write_reconstruction
from ontogeny.files import write_json
from ontogeny.sites import Site, shard_name

HELDOUT = [shard_name("heldout", number) for number in range(HELDOUT_SHARDS)]
RESAMPLED = {"dead": {"policy": "resample", "interval": 9, "times": 2, "candidates": 300}, "nonlinearity": "topk"}

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_study(tmp_path_factory.mktemp("study"))
    stream_statistics(root)
    return root


@pytest.fixture(scope="module")
def cached(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("cached")
    train_small(folder, settings_of(), study / "activations")
    return bytes_of(folder / "run")


@pytest.fixture
def several_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reader", "statistics"):
        monkeypatch.setattr(f"ontogeny.activations.{module}.OPEN_SHARDS", OPEN_SHARDS)


def test_statistics_are_those_of_shards(study: Path) -> None:
    for site in SITES:
        one, other = (
            study / folder / site.key / "statistics.json" for folder in ("activations", "activations/streamed")
        )
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.usefixtures("several_groups")
def test_what_is_trained_and_measured_has_the_bytes_of_shards(tmp_path: Path) -> None:
    root = make_study(tmp_path / "study", "int8")
    stream_statistics(root)
    for mode in ("cached", "streamed"):
        activations, out = root / ("activations" if mode == "cached" else "activations/streamed"), tmp_path / mode
        train_small(out, settings_of(**RESAMPLED), activations)
        write_reconstruction(out / "run", activations, HELDOUT, out / "reconstruction.csv")
        tokenizer = root / "models/neox/step8/tokenizer.json"
        tokens = root / "tokens/heldout.h5"
        write_features(FeatureSettings(), out / "run", activations, HELDOUT, tokens, tokenizer, out / "features", None)
    for part in ("run", "features"):
        assert bytes_of(tmp_path / "cached" / part) == bytes_of(tmp_path / "streamed" / part)
    one, other = (tmp_path / mode / "reconstruction.csv" for mode in ("cached", "streamed"))
    assert one.read_bytes() == other.read_bytes()
    assert activation_files(root) == []


@pytest.mark.parametrize("sweep", ["apart", "together"])
def test_models_run_once_over_every_row_for_all_runs_that_are_trained_together(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, sweep: str
) -> None:
    """All shards stay in memory, so that three epochs are one pass over each of three checkpoints."""
    caplog.set_level("INFO", "ontogeny")
    runs = [settings_of(run=f"k{k}", k=k, nonlinearity="topk") for k in (2, 3)]
    for mode in ("activations/streamed", "activations"):
        activations, out = study / mode, tmp_path / mode
        if sweep == "together":
            train_sweep(runs, activations, tmp_path / "state", out)
        else:
            for run in runs:
                train(run, activations, tmp_path / "state", out / run.run)
    passes = [record.args for record in caplog.records if record.msg == ROWS_RUN]
    assert passes == [(3 * TRAIN_SHARDS * ROWS_PER_SHARD,)] * (1 if sweep == "together" else 2)
    for run in runs:
        streamed = bytes_of(tmp_path / "activations/streamed" / run.run)
        assert streamed == bytes_of(tmp_path / "activations" / run.run)


def test_several_processes_run_the_models_of_their_own_sites(study: Path, tmp_path: Path) -> None:
    def trained(ranks: Ranks, name: str) -> None:
        activations = study / ("activations" if name == "cached" else "activations/streamed")
        train(settings_of(), activations, tmp_path / name / "state", tmp_path / name / "run", ranks=ranks)

    for name in ("cached", "streamed"):
        in_processes(2, 1, lambda ranks, name=name: trained(ranks, name), tmp_path / name)
    assert bytes_of(tmp_path / "streamed/run") == bytes_of(tmp_path / "cached/run")
    train_small(tmp_path / "alone", settings_of(), study / "activations")
    assert_same_run(tmp_path / "streamed/run", tmp_path / "alone/run")


def test_a_run_killed_and_stopped_goes_on_to_the_same_bytes_and_leaves_no_process(
    study: Path, cached: dict[str, bytes], tmp_path: Path
) -> None:
    activations = study / "activations/streamed"
    process = started(tmp_path, settings_of(), activations)
    wait_for_states(tmp_path, process, 5)
    workers = children(process.pid)
    assert workers
    process.kill()
    process.communicate()
    assert not any(is_alive(worker) for worker in workers)
    # It goes on, so that it waits for its first rows, which take seconds, when SIGTERM arrives.
    process = started(tmp_path, settings_of(), activations)
    time.sleep(0.1)
    while not is_waiting_for_sigterm(process.pid):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert process.returncode == 75, errors
    goes_on, stops = (re.search(rf"{words} step (\d+)", errors) for words in ("goes on from", "stopped on request at"))
    assert goes_on is not None
    assert stops is not None
    assert goes_on[1] == stops[1]
    process = started(tmp_path, settings_of(), activations)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert bytes_of(tmp_path / "run") == cached


def children(pid: int) -> list[int]:
    """List the processes that were started by any thread of another one and are still there."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for child in chain.from_iterable((task / "children").read_text().split() for task in tasks)]


def is_alive(pid: int, seconds: float = 20.0) -> bool:
    """Tell whether a process is there still after some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


@pytest.mark.usefixtures("several_groups")
def test_no_more_shards_are_held_than_two_groups(study: Path) -> None:
    settings = settings_of(epochs=1)
    reader = Reader(study / "activations/streamed", SITES, settings.shards, 48, 1, 0)
    source = reader._source
    most = 0
    for _ in reader.batches():
        most = max(most, len(source._known))  # type: ignore[attr-defined]
    assert OPEN_SHARDS < most <= 2 * OPEN_SHARDS < TRAIN_SHARDS


def test_what_is_missing_or_broken_is_one_line(study: Path, tmp_path: Path) -> None:
    for part in ("models", "tokens"):
        shutil.copytree(study / part, tmp_path / part)
    shutil.copytree(study / "activations/streamed", tmp_path / "activations/streamed")
    source = source_of(tmp_path / "activations/streamed", SITES, [*HELDOUT, "train-00000"])

    def refused(number: int) -> str:
        with pytest.raises(UserError) as error:
            source.opener([[number]])(number)
        assert "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "tokens/heldout.h5").unlink()
    assert "tokens/heldout.h5: there is no such file; run the rule that writes it" in refused(0)
    shutil.copy(study / "tokens/heldout.h5", tmp_path / "tokens")
    weights = tmp_path / "models/other/step8/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert "models/other/step8: its weights cannot be read" in refused(1)
    source.close()
    weights.write_bytes(whole)
    for sent, said in (
        (signal.SIGKILL, "-9; give the job more memory"),
        (signal.SIGABRT, "-6; its own message is above"),
    ):
        source.opener([[1]])(1)
        source._workers[0]._process.send_signal(sent)  # type: ignore[attr-defined]
        assert re.search(rf"(neox|other)/step\d: the process that runs it has ended with code {said}", refused(2))
        source.close()


def test_a_damaged_file_of_settings_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}x")
    with pytest.raises(UserError, match=r"streamed\.json: it does not say how activations are read"):
        source_of(tmp_path, SITES, HELDOUT)


def test_planted_activations_are_streamed_too(tmp_path: Path) -> None:
    model = planted_model(d_model=8, features=12, active=2.0, checkpoints=[0, 4])
    folder = tmp_path / "activations/streamed"
    write_json(folder / FILE, StreamedSettings(planted={"toy": model}, dtype="int8").model_dump(mode="json"))
    rows = write_rows_file(folder / "rows/train-00000.h5", ROWS_PER_SHARD)
    sites = [Site("toy", step, hook) for step in (4, 0) for hook in ("a", "b")]
    for site in sites:
        write_planted(model, site, rows, "int8", tmp_path / "cached" / site.key / rows.name, None)
    source = source_of(folder, sites, ["train-00000"])
    found = source.opener([[0]])(0).read(0, ROWS_PER_SHARD)
    source.close()
    assert (found == open_aligned(tmp_path / "cached", sites, "train-00000").read(0, ROWS_PER_SHARD)).all()


def test_reading_shards_does_not_import_what_runs_models() -> None:
    code = "import sys; import ontogeny.evaluation.encoding; sys.exit('transformer_lens' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "scripts")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
