"""Whatever ends a job in the middle of training, the study ends complete, equal, and with nothing done twice."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import yaml
from end_to_end.conftest import Workspace
from safetensors.numpy import load_file

from .conftest import WITHOUT_SLURM, RunningStudy, lose_node, scontrol, training_job

CROSSCODER = Path("results/dictionaries/crosscoder/latents128-k8-seed0")


def longer(finished: Workspace, folder: Path, epochs: int) -> Workspace:
    """Copy a finished study and let its crosscoder train longer, so that it is to be trained again."""
    shutil.copytree(finished.folder, folder, symlinks=True)
    workspace = object.__new__(Workspace)
    workspace.folder = folder
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["dictionaries"]["crosscoder"].update(epochs=epochs, save_every=20)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return workspace


def ranks_of_training() -> list[int]:
    """Find the processes that train, which torchrun started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if any(word.endswith(b"dictionary.py") for word in words[:3]) and b"\0LOCAL_RANK=" in environment:
            found.append(int(folder.name))
    return found


def rules_run(said: str) -> set[str]:
    return set(re.findall(r"^(?:local)?rule (\w+):", said, re.MULTILINE))


def test_a_study_survives_preemption_kill_cancel_and_a_lost_node(
    on_slurm: Workspace, without_slurm: Workspace, tmp_path: Path
) -> None:
    expected = longer(without_slurm, tmp_path / "plain", epochs=150)
    done = expected.snakemake(*WITHOUT_SLURM, "--", "results/metrics/")
    assert done.returncode == 0, done.stdout + done.stderr

    workspace = longer(on_slurm, tmp_path / "cluster", epochs=150)
    with RunningStudy(workspace) as study:
        step = study.wait_for_state()
        scontrol("requeue", training_job())
        step = study.wait_for_state(step)
        ranks = ranks_of_training()
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        step = study.wait_for_state(step)
        subprocess.run(["scancel", training_job()], check=True)
        step = study.wait_for_state(step)
        lose_node("node2")
        study.wait_for_state(step)
        assert study.wait() == 0, study.said()[-5000:]
        said = study.said()
    assert "SLURM status is: 'FAILED'" in said
    assert "SLURM status is: 'CANCELLED'" in said
    for table in (file.relative_to(expected.folder) for file in expected.folder.glob("results/metrics/**/*.csv")):
        assert (workspace.folder / table).read_bytes() == (expected.folder / table).read_bytes(), table
    ours, theirs = (load_file(one.folder / CROSSCODER / "crosscoder.safetensors") for one in (workspace, expected))
    assert all(values.tobytes() == theirs[name].tobytes() for name, values in ours.items())
    # Nothing but what depends on the longer training was done, as without SLURM, and the states are gone.
    assert not list(study.states.glob("*"))
    assert rules_run(said) == rules_run(done.stdout + done.stderr)


def test_a_job_at_its_time_limit_saves_and_the_next_call_goes_on(on_slurm: Workspace, tmp_path: Path) -> None:
    workspace = longer(on_slurm, tmp_path / "cluster", epochs=2000)
    limits = ("--set-resources", "dictionary:runtime=2", "dictionary:slurm_extra='--gpus-per-node=1 --signal=TERM@50'")
    with RunningStudy(workspace, "--retries", "0", *limits) as study:
        study.wait_for_state()
        job = training_job()
        assert study.wait() == 1
        said, log = study.said(), study.log.read_text()
    stopped = re.search(r"stopped on request at step (\d+) of 64000", log)
    assert stopped, log[-3000:]
    assert (study.states / f"state-{int(stopped[1]):09d}.safetensors").exists()
    assert "Error in rule dictionary:" in said
    assert f"external_jobid: {job}" in said
    assert str(study.log.relative_to(workspace.folder)) in said
    with RunningStudy(workspace) as study:
        study.wait_for_state(int(stopped[1]))
        assert f"goes on from step {stopped[1]} of 64000" in study.log.read_text()
