"""What a profile sets for a rule reaches every job of that kind."""

import re
from pathlib import Path

import pytest
import yaml

from .conftest import Workspace

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A study of two trained models that are read at different hooks."""
    config = yaml.safe_load(TINY.read_text())
    config["models"]["twin"] = config["models"]["neox"]
    twin = {"model": "twin", "checkpoints": "last", "hooks": ["blocks.0.hook_resid_post"]}
    config["dictionaries"]["crosscoder"]["sites"].append(twin)
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(config))
    (tmp_path / "project").mkdir()
    return Workspace(tmp_path / "project", file)


def jobs(output: str) -> dict[str, str]:
    """Find the last printed job of every rule."""
    return dict(re.findall(r"^rule (\w+):\n((?: .*\n)+)", output, re.MULTILINE))


def test_further_rules_of_a_kind_get_the_same_machine(workspace: Workspace) -> None:
    _, output = workspace.planned("results/activations/", profile="slurm")
    wanted = r"(?:mem_mb|runtime|gpu|slurm_partition)=\w+"
    resources = {rule: sorted(re.findall(wanted, job)) for rule, job in jobs(output).items()}
    for kind in ("language_model", "activations"):
        assert resources[f"{kind}_2"] == resources[kind]
        assert {"gpu=1", "slurm_partition=gpu"} <= set(resources[kind])
    assert "slurm_partition=cpu" in resources["rows"]


def test_threads_are_the_same_unless_a_further_rule_is_named(workspace: Workspace) -> None:
    chosen = ("--set-threads", "language_model=7", "activations=5", "activations_2=3")
    _, output = workspace.planned("results/activations/", "--cores", "16", *chosen)
    threads = {rule: int(*re.findall(r"threads: (\d+)", job)) for rule, job in jobs(output).items() if "threads" in job}
    expected = {"language_model": 7, "language_model_2": 7, "activations": 5, "activations_2": 3}
    assert {rule: threads[rule] for rule in expected} == expected
