"""A cluster for the session, and the tiny study run through it and without it."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.conftest import Workspace

from .cluster import NoClusterError, one_machine_cluster

HERE = Path(__file__).parent
TARGETS = ("results/figures/", "results/database/")
ONE_THREAD = (
    *("tokenizer", "tokens", "language_model", "activations", "dictionary", "losses", "reconstruction", "features"),
    *("geometry", "decoders", "ngram", "probes", "attribution"),
)
"""Rules whose threads a profile sets; other numbers of threads give other bytes."""

ON_SLURM = ("--workflow-profile", str(HERE / "profiles/onebox"))
WITHOUT_SLURM = ("--set-threads", *(f"{rule}=1" for rule in ONE_THREAD), "--set-resources", "dictionary:processes=2")


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """SLURM, up; a socket's path is short, so its folder is not among pytest's."""
    state = Path(tempfile.mkdtemp(prefix="onebox-"))
    # Ended from outside, pytest would leave the cluster up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with one_machine_cluster(state):
            yield
    except NoClusterError as error:
        pytest.exit(f"there is no SLURM to test on: {error}", returncode=1)
    finally:
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def without_slurm(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny study, run on this machine without SLURM, the crosscoder by as many processes."""
    workspace = Workspace(tmp_path_factory.mktemp("plain"), HERE / "tiny.yaml")
    done = workspace.snakemake(*WITHOUT_SLURM, "--", *TARGETS)
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


@pytest.fixture(scope="session")
def on_slurm(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny study, run through profiles/slurm."""
    workspace = Workspace(tmp_path_factory.mktemp("cluster"), HERE / "tiny.yaml")
    done = workspace.snakemake(*ON_SLURM, "--", *TARGETS, profile="slurm")
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


class RunningStudy:
    """A workflow under way on the cluster, and the training of its crosscoder."""

    def __init__(self, workspace: Workspace, *options: str) -> None:
        self.workspace, self.output = workspace, workspace.folder / "snakemake.txt"
        run = "crosscoder/latents128-k8-seed0"
        self.states = workspace.folder / "results/states" / run
        self.log = workspace.folder / f"results/logs/dictionary/{run}.log"
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", *ON_SLURM, *options]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--", "results/metrics/"], cwd=workspace.folder, stdout=output, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> "RunningStudy":
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left: the workflow at once, then its jobs, which it would wait for."""
        self.process.kill()
        self.process.wait()
        subprocess.run(["scancel", "--user", "root"], check=True)

    def said(self) -> str:
        return self.output.read_text()

    def wait(self, seconds: float = 600) -> int:
        """Wait for the workflow's end and return its exit status."""
        return self.process.wait(seconds)

    def wait_for_state(self, resumed_from: int = 0) -> int:
        """Wait until training has gone on from this step or a later one and saved a state since; return its step."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            log = self.log.read_text() if self.log.exists() else ""
            begun = max(map(int, re.findall(r"goes on from step (\d+) of", log)), default=0)
            steps = [int(file.stem.split("-")[1]) for file in self.states.glob("state-*.safetensors")]
            if begun >= resumed_from and max(steps, default=0) > begun:
                return max(steps)
            time.sleep(0.05)
        raise AssertionError(f"no state after going on from step {resumed_from}:\n{self.said()[-3000:]}")


def queue(*columns: str) -> list[dict[str, str]]:
    """Ask SLURM for its jobs, those that have ended a short while ago too, the last one first."""
    form = "|".join(f"%{letter}" for letter in columns)
    command = ["squeue", "--noheader", "--states=all", "--sort=-i", f"--format={form}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [dict(zip(columns, line.strip().split("|"), strict=True)) for line in said.splitlines()]


def training_job() -> str:
    """Number of the SLURM job that trains the crosscoder now."""
    jobs = [job["i"] for job in queue("i", "k", "T") if "dictionary" in job["k"] and job["T"] == "RUNNING"]
    assert len(jobs) == 1, queue("i", "k", "T")
    return jobs[0]


def scontrol(*arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], check=True)


def lose_node(node: str) -> None:
    """Take a node away with the jobs on it, and give it back."""
    scontrol("update", f"nodename={node}", "state=down", "reason=test")
    resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
    for _ in range(600):
        said = subprocess.run(["sinfo", "-h", "-N", "-n", node, "-o", "%t"], capture_output=True, text=True, check=True)
        if set(said.stdout.split()) & {"idle", "mix", "alloc"}:
            return
        # Refused while the node is clearing up.
        subprocess.run(resume, capture_output=True, check=False)
        time.sleep(0.1)
    raise AssertionError(f"{node} did not come back")
