"""`make check-cluster` against a real SLURM: nothing missing, and each thing that can be."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .conftest import HERE

PROJECT = HERE.parents[1]
BASE = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 1}


def check(folder: Path, **changes: object) -> tuple[int, list[str]]:
    """Check a small profile that fits the cluster but for `changes`."""
    profile = {**BASE, "default-resources": {"slurm_partition": "cpu", "mem_mb": 1000, "runtime": 10}, **changes}
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))
    words = [sys.executable, PROJECT / "scripts/check_cluster.py", "--profile", folder, "--folder", folder / "shared"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_nothing_is_missing_for_the_profile_of_the_project(tmp_path: Path) -> None:
    words = [sys.executable, PROJECT / "scripts/check_cluster.py", "--profile", PROJECT / "profiles/slurm"]
    words += ["--profile", HERE / "profiles/onebox", "--folder", tmp_path / "shared"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSING" not in done.stdout
    for said in (
        "ok      SLURM answers; partitions are cpu, gpu",
        "ok      dictionary: SLURM would take `-p gpu --nodes",
        "ok      squeue remembers ended jobs for 36000 s",
        "ok      file system: a node sees",
        "ok      two nodes: hello from 2 processes",
    ):
        assert said in done.stdout
    assert not list((tmp_path / "shared").iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"set-resources": {"losses": {"slurm_partition": "h100"}}},
            "MISSING losses: there is no partition 'h100'; set slurm_partition in the profile",
        ),
        (
            {"set-resources": {"losses": {"slurm_partition": "gpu", "gpu": 5}}},
            "MISSING losses: SLURM would refuse `-p gpu --nodes 1",
        ),
        ({"slurm-init-seconds-before-status-checks": 20000}, "MISSING squeue forgets jobs after 36000 s"),
        ({"slurm-status-command": "sacct"}, "MISSING sacct: "),
    ],
)
def test_what_is_missing_is_one_line(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    code, lines = check(tmp_path, **changes)
    assert code == 1
    assert len([line for line in lines if line.startswith(said)]) == 1, lines
    assert len([line for line in lines if line.startswith("MISSING")]) == 1, lines
