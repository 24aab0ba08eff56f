"""The tiny study once more, without a shard."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Workspace
from .test_reruns import ALL_RUNS

RUN = "sae/latents128-sparsity0.5-seed0"
TABLES = (f"results/metrics/{RUN}/reconstruction.csv", f"results/dictionaries/{RUN}/training.csv")


@pytest.fixture(scope="module")
def streamed(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The finished study in a copy, with the other mode and without its shards."""
    folder = tmp_path_factory.mktemp("streamed")
    workspace = Workspace(folder, finished.folder / "config.yaml")
    for part in ("results", ".snakemake"):
        shutil.copytree(finished.folder / part, folder / part)
    shutil.rmtree(folder / "results/activations/neox")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("activations: {", "activations: {mode: streamed, "))
    return workspace


def test_another_mode_makes_rows_and_statistics_of_its_own_and_trains_again(streamed: Workspace) -> None:
    assert streamed.planned()[0] == Counter({**ALL_RUNS, "streamed": 1, "rows": 3, "statistics": 4})


def test_what_is_measured_without_shards_has_the_same_bytes(streamed: Workspace) -> None:
    before = {table: Path(streamed.folder, table).read_bytes() for table in TABLES}
    done = streamed.snakemake(TABLES[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert {table: Path(streamed.folder, table).read_bytes() for table in TABLES} == before
    found = {file.name for file in (streamed.folder / "results/activations").rglob("*") if file.is_file()}
    rows = {"train-00000.h5", "train-00001.h5", "heldout-00000.h5"}
    assert found == {"streamed.json", "statistics.json"} | rows
    assert not (streamed.folder / "results/activations/neox").exists()


def test_an_edit_of_what_reads_models_reads_them_again(streamed: Workspace) -> None:
    file = "scripts/ontogeny/language_model/bridge.py"
    with streamed.edited(file, "\nATTENTION_MAPS", "\n_EDITED = 1\nATTENTION_MAPS"):
        planned, _ = streamed.planned("results/metrics/" + RUN + "/reconstruction.csv")
    assert planned == Counter({"streamed": 1, "statistics": 1, "dictionary": 1, "reconstruction": 1})
