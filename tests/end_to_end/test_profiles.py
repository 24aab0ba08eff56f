"""What a profile sets for a rule reaches every job of that kind."""

import re
import subprocess
import sys
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
    assert "slurm_partition=cpu" in resources["corpus"]


def test_threads_are_the_same_unless_a_further_rule_is_named(workspace: Workspace) -> None:
    chosen = ("--set-threads", "language_model=7", "activations=5", "activations_2=3")
    _, output = workspace.planned("results/activations/", "--cores", "16", *chosen)
    threads = {rule: int(*re.findall(r"threads: (\d+)", job)) for rule, job in jobs(output).items() if "threads" in job}
    expected = {"language_model": 7, "language_model_2": 7, "activations": 5, "activations_2": 3}
    assert {rule: threads[rule] for rule in expected} == expected


def test_a_sweep_has_the_machine_of_a_run_and_its_threads_unless_products_are_shared(workspace: Workspace) -> None:
    config = yaml.safe_load((workspace.folder / "config.yaml").read_text())
    sites = config["dictionaries"]["crosscoder"]["sites"]
    shared = {"nonlinearity": "relu", "penalty": "l1", "sparsity": [0.1], "latents": [32], "sweep": "together"}
    topk = {"nonlinearity": "topk", "k": [4, 8], "latents": [32]}
    config["dictionaries"] = {
        "apart": {"sites": sites[:1], **topk},
        "one": {"sites": sites[:1], **topk, "sweep": "together"},
        "shared": {"sites": sites[:1], **shared},
    }
    (workspace.folder / "config.yaml").write_text(yaml.safe_dump(config))
    _, output = workspace.planned("--cores", "16", "--", "results/dictionaries/")
    threads = {rule: re.findall(r"threads: (\d+)", job) for rule, job in jobs(output).items()}
    assert threads["sweep"] == threads["dictionary"] != threads["sweep_2"] == ["8"]
    _, output = workspace.planned("results/dictionaries/", profile="slurm")
    machines = {
        rule: set(re.findall(r"\b(?:mem_mb|runtime|gpu|slurm_\w+)=[^,\n]+", job)) for rule, job in jobs(output).items()
    }
    assert machines["sweep"] == machines["sweep_2"] == machines["dictionary"] >= {"gpu=1", "mem_mb=200000"}


def test_what_is_named_changes_and_the_rest_of_the_profile_stays(workspace: Workspace) -> None:
    chosen = ("--cores", "16", "--set-resources", "activations:runtime=7", "--set-threads", "language_model=3")
    named = ("--default-resources", "slurm_account=me", "--")
    _, output = workspace.planned(*chosen, *named, "results/activations/", profile="slurm")
    found = jobs(output)
    for kind, own in (("activations", "mem_mb=64000"), ("language_model", "runtime=240")):
        for part in (own, "gpu=1", "slurm_partition=gpu", "slurm_account=me"):
            assert re.search(rf"\b{part}\b", found[kind]), found[kind]
    assert "runtime=7," in found["activations"]
    assert ("threads: 8" in found["activations"], "threads: 3" in found["language_model"]) == (True, True)
    for part in ("mem_mb=8000", "disk_mb=1000", "slurm_partition=cpu", "runtime=60", "slurm_account=me"):
        assert re.search(rf"\b{part}\b", found["corpus"]), found["corpus"]


def test_a_study_has_a_profile_of_its_own_by_name_or_path(workspace: Workspace) -> None:
    own = workspace.folder / "profiles/own"
    own.mkdir()
    (own / "config.yaml").write_text(
        "default-resources: {slurm_account: me}\n"
        "set-threads: {dictionary: \"6 if wildcards.dictionary == 'crosscoder' else 2\"}\n"
        "set-resources: {dictionary: {gpu: \"4 if wildcards.dictionary == 'crosscoder' else 1\"}}\n"
    )
    for name in ("own", "profiles/own", "profiles/own/config.yaml"):
        options = ("--cores", "16", "--workflow-profile", name, "--", "results/dictionaries/")
        _, output = workspace.planned(*options, profile="slurm")
        found = dict(
            re.findall(r"^rule dictionary:\n(?: .*\n)+?    wildcards: dictionary=(\w+)(.*\n(?: .*\n)+)", output, re.M)
        )
        for name, threads, gpus in (("crosscoder", 6, 4), ("sae", 2, 1)):
            for part in (
                f"gpu={gpus}",
                "mem_mb=200000",
                "slurm_partition=gpu",
                "slurm_account=me",
                f"threads: {threads}",
            ):
                assert re.search(rf"\b{part}\b", found[name]), found[name]
        assert "mem_mb=8000" in jobs(output)["corpus"]


def test_another_program_may_run_the_workflow(workspace: Workspace) -> None:
    program = workspace.folder / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from snakemake.api import DAGSettings, ResourceSettings, SnakemakeApi\n"
        "with SnakemakeApi() as api:\n"
        "    workflow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=Path('Snakefile'))\n"
        "    dag = workflow.dag(dag_settings=DAGSettings(targets={'results/corpus/'}))\n"
        "    dag.execute_workflow(executor='dryrun')\n"
    )
    command = [sys.executable, program, "--profile", "of another kind"]
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rule corpus:" in done.stderr
