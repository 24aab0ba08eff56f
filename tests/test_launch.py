"""Several processes under torchrun: what is started, and that whatever happens to one of them ends all in seconds."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from crosscoder_runs import planted, run_settings, write_activations

from launch import PORTS, Grid, Meeting, grid, launch_command, meeting_of
from ontogeny.config.dictionaries import RunSettings

SCRIPTS = Path(__file__).parents[1] / "scripts"
SITES = 4
SECONDS = 60
"""Within which a job ends after one of its processes; it is about five on an idle machine."""


def test_one_process_is_started_plainly_where_one_is_enough() -> None:
    assert launch_command(["x.py", "--a", "1"], grid(1, 1, 1, None)) == [sys.executable, "x.py", "--a", "1"]
    assert grid(1, 8, 1, 1) == grid(4, 8, 1, 1) == (1, 1)


@pytest.mark.parametrize(
    ("nodes", "processes", "data_ranks", "sites", "place"),
    [
        (1, 4, 1, None, (1, 4)),
        (1, 4, 1, 3, (1, 3)),
        (1, 4, 2, 1, (1, 2)),
        (1, 8, 2, 12, (1, 8)),
        (2, 16, 1, 32, (2, 8)),
        (2, 16, 1, 12, (2, 6)),
        (2, 8, 1, 5, (2, 2)),
        (2, 8, 2, 1, (2, 1)),
        (4, 4, 1, 3, (1, 3)),
    ],
)
def test_no_more_processes_than_sites_are_started_and_as_many_on_each_node(
    nodes: int, processes: int, data_ranks: int, sites: int | None, place: tuple[int, int]
) -> None:
    assert grid(nodes, processes, data_ranks, sites) == place


def test_one_torchrun_a_node_meets_on_the_first_one() -> None:
    meeting = Meeting("4711", "host", 24711)
    line = " ".join(launch_command(["x.py", "--log", "l"], Grid(2, 8), 2, 16, meeting, seconds_to_save=840))
    assert line.startswith("srun --nodes 2 --ntasks 2 --cpus-per-task 16 --kill-on-bad-exit=1 ")
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-id 4711 --rdzv-endpoint host:24711 --nproc-per-node 8 --" in line
    assert line.endswith("-- x.py --log l --data-ranks 2")
    assert " --shutdown-timeout 840 " in line
    assert "--standalone" in launch_command(["x.py"], Grid(1, 2))


def test_jobs_on_one_host_never_share_a_port() -> None:
    number = 20 * len(PORTS)
    first = meeting_of(str(number))
    assert first.port in PORTS
    with socket.create_server(("", first.port)):
        assert meeting_of(str(number)).port == first.port + 1
        assert meeting_of(str(number + len(PORTS))).port == first.port + 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nodes", "2", "--processes", "2"), "--nodes 2: there is no SLURM job (SLURM_JOB_ID is not set)"),
        (("--nodes", "2", "--processes", "3"), "--nodes 2 and --data-ranks 1 must divide --processes 3"),
        (("--data-ranks", "3", "--processes", "4"), "--nodes 1 and --data-ranks 3 must divide --processes 4"),
    ],
)
def test_what_cannot_be_started_is_one_line(options: tuple[str, ...], said: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
    words = [sys.executable, SCRIPTS / "launch.py", *options, "--", "x.py"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}")
    assert len(done.stderr.splitlines()) == 1


def test_several_nodes_are_refused_where_their_srun_would_wait_for_ever() -> None:
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    words = [sys.executable, SCRIPTS / "launch.py", "--nodes", "2", "--processes", "2", "--", "x.py"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --nodes 2: srun has started this")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_activations(tmp_path_factory.mktemp("activations"), planted(4096, SITES).raw_BSD, 2048)


def started(folder: Path, settings: RunSettings, activations: Path, processes: int = 2) -> subprocess.Popen[str]:
    """Start a run by hand, as the rule does."""
    options = {
        "--log": folder / "run.log",
        "--settings": settings.model_dump_json(),
        "--activations": activations,
        "--state": folder / "state",
        "--out": folder / "run",
    }
    words = [SCRIPTS / "dictionary.py", *(word for pair in options.items() for word in pair)]
    command = [sys.executable, SCRIPTS / "launch.py", "--processes", processes, "--", *words]
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)


def settings_of(**changes: Any) -> RunSettings:
    return run_settings(4096, 2, **{"sites": SITES, "epochs": 500, "log_every": 100, "save_every": 10, **changes})


def process_of(job: subprocess.Popen[str], number: int) -> int:
    """Find the process of a job that has this number."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == job.pid and f"RANK={number}" in (folder / "environ").read_text().split("\0"):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"there is no process {number}")


def wait_for_a_state(folder: Path, job: subprocess.Popen[str]) -> int:
    """Wait until a state is saved, and return its step."""
    while job.poll() is None:
        for file in sorted((folder / "state").glob("state-*.safetensors"), reverse=True):
            return int(file.stem.split("-")[1])
        time.sleep(0.05)
    raise AssertionError(job.communicate()[1])


def test_a_process_killed_at_once_ends_the_job_in_seconds(activations: Path, tmp_path: Path) -> None:
    job = started(tmp_path, settings_of(), activations)
    wait_for_a_state(tmp_path, job)
    other = process_of(job, 0)
    os.kill(process_of(job, 1), signal.SIGKILL)
    said = job.communicate(timeout=SECONDS)[1]
    assert job.returncode != 0
    assert "Signal 9 (SIGKILL)" in said
    log = (tmp_path / "run.log").read_text()
    assert "process 1 ends, because another one has ended" in log
    assert "Traceback" not in log
    assert not Path(f"/proc/{other}").exists()
    assert not (tmp_path / "run").exists()


def test_sigterm_to_torchrun_saves_and_a_rerun_goes_on(activations: Path, tmp_path: Path) -> None:
    settings = settings_of(epochs=20)
    job = started(tmp_path, settings, activations)
    wait_for_a_state(tmp_path, job)
    job.terminate()
    job.communicate(timeout=SECONDS)
    assert job.returncode != 0
    log = (tmp_path / "run.log").read_text()
    last = sorted((tmp_path / "state").glob("state-*.safetensors"))[-1]
    step = int(last.stem.split("-")[1])
    assert log.count(f"stopped on request at step {step} of 640") == 1
    assert "Traceback" not in log
    job = started(tmp_path, settings, activations, processes=1)
    assert job.wait(SECONDS) == 0
    assert f"goes on from step {step} of 640" in (tmp_path / "run.log").read_text()
    assert (tmp_path / "run" / "crosscoder.safetensors").exists()


def test_a_damaged_shard_of_the_second_process_is_one_line(activations: Path, tmp_path: Path) -> None:
    settings = settings_of()
    shutil.copytree(activations, tmp_path / "activations")
    shard = tmp_path / "activations" / settings.sites[3].key / "train-00001.h5"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    job = started(tmp_path, settings, tmp_path / "activations")
    said = job.communicate(timeout=SECONDS)[1]
    assert job.returncode == 1
    for text in (said, (tmp_path / "run.log").read_text()):
        lines = [line for line in text.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, text
        assert lines[0].startswith(f"error: {shard}: ")
    assert "Traceback" not in (tmp_path / "run.log").read_text()


def test_processes_end_with_torchrun_itself(activations: Path, tmp_path: Path) -> None:
    job = started(tmp_path, settings_of(), activations)
    wait_for_a_state(tmp_path, job)
    left = [Path(f"/proc/{process_of(job, number)}") for number in (0, 1)]
    job.kill()
    job.wait()
    begun = time.monotonic()
    while any(process.exists() for process in left):
        assert time.monotonic() - begun < SECONDS
        time.sleep(0.1)
    assert "because torchrun has ended" in (tmp_path / "run.log").read_text()
