"""A finished tiny study in a copy of the project, which tests may edit and put back."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "scripts", "report", "envs", "profiles")
TARGETS = ("results/features/", "results/figures/", "results/database/")


class Workspace:
    """A copy of the project with a study of its own; without a config, the copy that is in the folder."""

    def __init__(self, folder: Path, config: Path | None = None) -> None:
        self.folder = folder
        if config is None:
            return
        for part in PARTS:
            source = PROJECT / part
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, folder / part)
        shutil.copyfile(config, folder / "config.yaml")

    def snakemake(self, *arguments: str, profile: str = "local") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{profile}", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def planned(self, *arguments: str, profile: str = "local") -> tuple[Counter[str], str]:
        """Count the jobs of a dry run by rule, and return what it printed."""
        done = self.snakemake("--dry-run", *(arguments or TARGETS), profile=profile)
        assert done.returncode == 0, done.stderr
        output = done.stdout + done.stderr
        table = re.search(r"Job stats:\n.*?\n-.*?\n(.*?)\ntotal ", output, re.DOTALL)
        rows = [line.split() for line in table[1].splitlines()] if table else []
        return Counter({name: int(count) for name, count in rows if not name.startswith("results")}), output

    @contextmanager
    def changed(self, *path: str | int, value: Any) -> Iterator[None]:
        """Change one value of the config for as long as the block runs."""
        file = self.folder / "config.yaml"
        before = file.read_text()
        config = yaml.safe_load(before)
        here = config
        for key in path[:-1]:
            here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
        here[path[-1]] = value
        file.write_text(yaml.safe_dump(config))
        try:
            yield
        finally:
            file.write_text(before)

    @contextmanager
    def edited(self, name: str, before: str, after: str) -> Iterator[None]:
        """Replace text in a file for as long as the block runs."""
        file = self.folder / name
        text = file.read_text()
        assert before in text, f"{before!r} is not in {name}"
        file.write_text(text.replace(before, after, 1))
        try:
            yield
        finally:
            file.write_text(text)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny study, run to its end once, of which each process of the tests has a copy."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tiny"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            workspace = Workspace(tmp_path_factory.mktemp("tiny-run"), Path(__file__).with_name("tiny.yaml"))
            done = workspace.snakemake(*TARGETS)
            assert done.returncode == 0, done.stdout + done.stderr
            workspace.folder.rename(shared)
    return Workspace(shutil.copytree(shared, own / "finished"))
