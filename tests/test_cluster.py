"""What `make check-cluster` says where there is no cluster, and of profiles; tests/slurm/ has a real one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ontogeny.cluster import Request, read_profile
from ontogeny.errors import UserError

PROJECT = Path(__file__).parents[1]
SLURM = PROJECT / "profiles/slurm"


def check(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, PROJECT / "scripts/check_cluster.py", *arguments]
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_without_slurm_one_line_says_what_is_missing(tmp_path: Path) -> None:
    done = check("--profile", SLURM, "--folder", tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("MISSING sinfo is not on the PATH: load SLURM's module")
    assert not done.stderr


def test_a_profile_on_top_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "set-resources: {dictionary: {nodes: 2, gpu: 16}}\nset-threads: {losses: 3}\n"
    )
    below = {request.rule: request for request in read_profile(SLURM)[1]}
    above = {request.rule: request for request in read_profile(SLURM, tmp_path)[1]}
    assert above["dictionary"].resources == {**below["dictionary"].resources, "nodes": 2, "gpu": 16}
    assert {**above["losses"].resources} == {**below["losses"].resources}
    assert (above["losses"].threads, below["losses"].threads) == (3, 8)
    words = " ".join(above["dictionary"].options())
    assert words.startswith("-p gpu --nodes 2 --cpus-per-task 8 -t 1440 ")
    assert words.endswith("--gpus-per-node=8")


def test_what_depends_on_the_dictionary_is_asked_for_at_its_largest() -> None:
    requests = {request.rule: request for request in read_profile(SLURM, PROJECT / "profiles/evolution-pythia-6.9b")[1]}
    words = " ".join(requests["dictionary"].options())
    assert words == "-p gpu --nodes 2 --cpus-per-task 32 -t 5760 --mem 900000 --gpus-per-node=8"
    assert Request("x", {"gpu": "4 if a else (2 if b else 16)"}, 1).number("gpu", 0) == 16
    runtime = Request("x", {"slurm_partition": "cpu", "runtime": "90 if a else 30", "slurm_account": "me"}, 1)
    assert " ".join(runtime.options()).startswith("-p cpu -A me --nodes 1 --cpus-per-task 1 -t 90 ")
    assert Request("x", {"gpu": "input.size_mb"}, 1).number("gpu", 0) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("executor: slurm\n", "default-resources names no slurm_partition; set one that `sinfo` lists"),
        ("- 1\n", "no profile; expected keys and values, as in profiles/slurm/config.yaml"),
        ("a: [1\n", "no profile (while parsing a flow sequence); expected a folder with config.yaml"),
    ],
)
def test_a_bad_profile_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="^" + str(tmp_path)) as caught:
        read_profile(tmp_path)
    assert said in str(caught.value)
    done = check("--profile", tmp_path / "none")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
