"""Bad input, as a user meets it: one clear line on the terminal, exit code 1, nothing half-written."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Workspace

TINY = Path(__file__).with_name("tiny.yaml")


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines that tell the user what is wrong: those of the terminal, not those of a log that Snakemake repeats."""
    return list(dict.fromkeys(line for line in done.stderr.splitlines() if line.startswith("error: ")))


def copied(workspace: Workspace, folder: Path) -> Workspace:
    """Copy a workspace with its results, for tests whose jobs fail: Snakemake removes the outputs of those."""
    return Workspace(shutil.copytree(workspace.folder, folder, ignore=shutil.ignore_patterns("server")))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, TINY)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("corpus", "heldut"), 0.1, "config.yaml: corpus.heldut: unknown key; did you mean 'heldout'?"),
        (("dictionaries", "sae", "sites", 0, "checkpoints"), [7], "step 7 of neox was never saved; saved steps are 0, 1, 4, 16, 64"),
        (("dictionaries", "sae", "sites", 0, "hooks"), ["blocks.9.hook_resid_post"], "is in block 9, but the model has 2: blocks.0 to blocks.1"),
    ],
)  # fmt: skip
def test_bad_config_stops_before_any_job(workspace: Workspace, path: tuple[str, ...], value: Any, message: str) -> None:
    with workspace.changed(*path, value=value):
        done = workspace.snakemake("results/figures/")
    assert done.returncode == 1
    assert len(errors(done)) == 1
    assert message in errors(done)[0]
    assert "Traceback" not in done.stderr
    assert not (workspace.folder / "results").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"Fellow citizens of the Senate: na\xefve", "UTF-8"),
        (b"Fellow citizens.", "context"),
    ],
)
def test_bad_text_names_the_file_and_the_trouble(workspace: Workspace, content: bytes, message: str) -> None:
    for name in ("a.txt", "b.txt"):
        (workspace.folder / name).write_bytes(content)
    corpus = {"source": "files", "format": "text", "paths": ["a.txt", "b.txt"], "heldout": 0.5}
    with (
        workspace.changed("corpus", value=corpus),
        workspace.changed("tokenizer", value={"source": "train", "vocab_size": 260}),
    ):
        done = workspace.snakemake("results/tokens/train.h5")
    assert done.returncode == 1
    assert len(errors(done)) == 1
    assert message in errors(done)[0]
    assert "Traceback" not in done.stderr
    assert not (workspace.folder / "results/tokens/train.h5").exists()


def test_more_rows_than_the_text_has_are_refused_before_any_training(workspace: Workspace) -> None:
    with (
        workspace.changed("activations", "heldout_rows", value=10**6),
        workspace.changed("activations", "rows_per_shard", value=10**6),
    ):
        done = workspace.snakemake("--cores", "1", "results/figures/")
    assert done.returncode == 1
    (line,) = errors(done)
    assert "activations.heldout_rows: 1000000 rows are asked for, but the heldout split has" in line
    assert not (workspace.folder / "results/models").exists()


def test_two_studies_cannot_write_to_one_root(finished: Workspace) -> None:
    other = finished.folder / "other.yaml"
    shutil.copyfile(finished.folder / "config.yaml", other)
    done = finished.snakemake("--configfile", "other.yaml", "--", "results/figures/")
    other.unlink()
    assert done.returncode == 1
    (line,) = errors(done)
    assert "other.yaml: study 'default' writes to results/, which belongs to config.yaml" in line


def test_another_study_is_one_file_and_shares_nothing(finished: Workspace) -> None:
    config = yaml.safe_load(TINY.read_text())
    del config["dictionaries"]["crosscoder"]
    other = finished.folder / "other.yaml"
    other.write_text(yaml.safe_dump({**config, "study": "other"}))
    planned, output = finished.planned("--configfile", "other.yaml", "--", "results/other/figures/")
    other.unlink()
    assert planned["dictionary"] == 1
    assert "results/other/corpus/manifest.json" in output
    assert "results/corpus" not in output


@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_damaged_shard_is_named_and_no_number_comes_from_it(finished: Workspace, tmp_path: Path, damage: str) -> None:
    copy = copied(finished, tmp_path / "copy")
    shard = copy.folder / "results/activations/neox/step4/blocks.1.hook_resid_post/train-00001.h5"
    content = bytearray(shard.read_bytes())
    if damage == "short":
        del content[-1000:]
    else:
        content[-1000] ^= 1
    shard.write_bytes(content)
    done = copy.snakemake("results/figures/")
    assert done.returncode == 1
    assert errors(done)
    assert "step4/blocks.1.hook_resid_post/train-00001.h5" in errors(done)[0]
    assert "Traceback" not in done.stderr


def test_closed_port_is_named_without_the_password(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(finished, tmp_path / "copy")
    monkeypatch.setenv("DB_PASSWORD", "secret")
    with copy.changed("database", "uri", value="mongodb://me:${DB_PASSWORD}@127.0.0.1:9/"):
        done = copy.snakemake("--cores", "1", "results/database/")
    assert "secret" not in done.stdout + done.stderr
    assert done.returncode == 1
    assert "127.0.0.1:9" in errors(done)[0]
    assert "secret" not in errors(done)[0]
    assert "Traceback" not in done.stderr


def test_missing_target_is_refused(finished: Workspace) -> None:
    done = finished.snakemake("results/activations/neox/step4/blocks.1.hook_resid_post/train-00099.h5")
    assert done.returncode == 1
