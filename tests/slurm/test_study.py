"""The tiny study through profiles/slurm: the same numbers, the crosscoder over two nodes, and few jobs."""

import re
from collections import Counter

import pytest
from end_to_end.conftest import Workspace
from safetensors.numpy import load_file

from .conftest import ON_SLURM, queue

CROSSCODER = "results/dictionaries/crosscoder/latents128-k8-seed0/crosscoder.safetensors"


def test_metrics_are_those_of_the_same_study_without_slurm(on_slurm: Workspace, without_slurm: Workspace) -> None:
    tables = sorted(file.relative_to(on_slurm.folder) for file in on_slurm.folder.glob("results/metrics/**/*.csv"))
    assert len(tables) >= 4
    for table in tables:
        assert (on_slurm.folder / table).read_bytes() == (without_slurm.folder / table).read_bytes(), table


def test_the_crosscoder_is_that_of_two_processes_on_one_machine(on_slurm: Workspace, without_slurm: Workspace) -> None:
    ours, theirs = (load_file(workspace.folder / CROSSCODER) for workspace in (on_slurm, without_slurm))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values.tobytes() == theirs[name].tobytes(), name


@pytest.mark.usefixtures("on_slurm")
def test_the_crosscoder_was_trained_on_two_nodes_and_the_sae_on_one() -> None:
    nodes = {job["k"]: int(job["D"]) for job in queue("k", "D") if "rule_dictionary" in job["k"]}
    assert {re.search(r"crosscoder|sae", name)[0]: count for name, count in nodes.items()} == {  # type: ignore[index]
        "crosscoder": 2,
        "sae": 1,
    }


@pytest.mark.usefixtures("on_slurm")
def test_gpu_rules_are_in_the_gpu_partition_and_light_ones_in_no_queue() -> None:
    partitions = {re.sub(r"_wildcards.*", "", job["k"]): job["P"] for job in queue("k", "P")}
    for rule in ("language_model", "activations", "dictionary", "losses"):
        assert partitions[f"rule_{rule}"] == "gpu"
    assert partitions["rule_corpus"] == "cpu"
    assert not {rule for rule in partitions if re.search("figure|gallery|database|nll", rule)}


@pytest.mark.usefixtures("on_slurm")
def test_short_jobs_share_one_of_the_queue() -> None:
    names = Counter(re.sub(r"_wildcards.*", "", job["k"]) for job in queue("k"))
    # Two shards of rows and three statistics; the executor names a group by its rule and the group.
    assert names["rule_rows_rows"] == names["rule_statistics_statistics"] == 1
    assert not {"rule_rows", "rule_statistics"} & names.keys()


def test_what_slurm_finished_is_finished_without_it(on_slurm: Workspace) -> None:
    assert on_slurm.planned()[0] == Counter()
    assert on_slurm.planned(*ON_SLURM, profile="slurm")[0] == Counter()
