"""`make` runs the study that CONFIG names, and says where its results are."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .conftest import PROJECT, Workspace

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path, TINY)
    shutil.copyfile(PROJECT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**yaml.safe_load(TINY.read_text()), "study": "other"}))
    return workspace


def make(workspace: Workspace, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run make with the commands of this Python, and Snakemake as a dry run."""
    commands = Path(sys.executable).parent
    line = [
        "make",
        "--no-print-directory",
        "--old-file",
        ".venv/.made",
        f"BIN={commands}",
        f"SNAKEMAKE={commands}/snakemake --dry-run",
    ]
    return subprocess.run([*line, *arguments], cwd=workspace.folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("arguments", "root"), [((), "results"), (("CONFIG=other.yaml",), "results/other")])
def test_make_runs_the_study_that_is_named(workspace: Workspace, arguments: tuple[str, ...], root: str) -> None:
    done = make(workspace, "figures", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{root}/figures/index.html"
    assert f"{root}/figures/ " in done.stdout
    assert f"{root}/database/ " in make(workspace, "database", *arguments).stdout


def test_make_stops_at_a_study_that_is_not_there(workspace: Workspace) -> None:
    for target in ("figures", "database", "report", "plan"):
        done = make(workspace, target, "CONFIG=none.yaml")
        assert done.returncode == 2
        assert done.stderr.startswith("error: none.yaml: cannot be read")
        assert done.stdout == ""
