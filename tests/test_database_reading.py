from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from database_files import SITES, RunFiles, write_run
from pymongo.database import Database

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import FEATURES, INDEXED, RANKED, RUNS, Run, RunName
from ontogeny.database.ingest import write_receipt
from ontogeny.database.reading import (
    Order,
    Selector,
    feature_samples,
    features,
    select,
    visible_run,
    visible_runs,
)
from ontogeny.errors import UserError

NAME = RunName("planets", "crosscoder", "latents200-k4-seed0")
LATENTS = 200


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def files(root: Path) -> RunFiles:
    return write_run(root, NAME.run, latents=LATENTS)


@pytest.fixture(scope="module")
def database(root: Path, files: RunFiles) -> Iterator[Database[Any]]:
    """A database with two runs, held open while they are ingested, as the web page does."""
    with connect(DatabaseSettings(), root / "server") as database:
        for one in (files, write_run(root, "latents8-k4-seed0", latents=8, sites=SITES[:1])):
            write_receipt(DatabaseSettings(), root / "server", *one, root / "receipt.json", None)
        yield database


@pytest.fixture(scope="module")
def run(database: Database[Any]) -> Run:
    return visible_run(database, NAME)


@pytest.fixture(scope="module")
def table(files: RunFiles) -> pd.DataFrame:
    table = pq.read_table(files.features / "features.parquet").to_pandas()
    table["peak_norm"] = table.decoder_norm.map(max)
    return table


def test_a_run_says_what_was_measured_where(run: Run) -> None:
    assert (run.latents, run.sparsity, run.seed, run.study) == (LATENTS, 4.0, 0, "planets")
    assert [(site.model, site.step, site.hook) for site in run.sites] == SITES
    assert {metric.metric: metric.value for metric in run.metrics} == {"fvu": 0.125, "dead": 0.0625}
    last = {metric.metric: (metric.value, metric.tokens, metric.split) for metric in run.sites[-1].metrics}
    assert last == {
        "fvu": (0.25, 4096, "heldout"),
        "nll_clean": (6.0, 2048, "heldout"),
        "recovered_mean": (0.9, 2048, "heldout"),
    }
    assert {metric.metric: metric.value for metric in run.sites[0].metrics}["recovered_mean"] is None


def test_features_are_what_the_table_says(database: Database[Any], run: Run, table: pd.DataFrame) -> None:
    found = features(database, run)
    assert len(found) == LATENTS
    for feature, (_, row) in zip(found, table.iterrows(), strict=True):
        said = feature.model_dump(by_alias=True)
        assert said["decoder_norms"] == list(row.decoder_norm)
        assert said["normalised_norms"] == list(row.normalised_norm)
        for name in (
            "feature",
            "density",
            "mean_activation",
            "max_activation",
            "initialisation",
            "persistence",
            "dead",
        ):
            assert said[name] == row[name], name
        for name in ("peak_site", "peak_step", "emergence_site", "emergence_step", "class"):
            assert said[name] == (None if pd.isna(row[name]) else row[name]), name
    assert found[3].peak_step is None
    assert found[3].class_ is None


@pytest.mark.parametrize("order", get_args(Order))
def test_pages_follow_the_order(database: Database[Any], run: Run, table: pd.DataFrame, order: Order) -> None:
    expected = list(table.sort_values([order, "feature"], na_position="last").feature)
    pages = [features(database, run, order, start, start + 33) for start in range(0, LATENTS, 33)]
    assert [len(page) for page in pages] == [33] * 6 + [2]
    assert [feature.feature for page in pages for feature in page] == expected
    first = features(database, run, order, 0, 10, descending=True)
    assert [feature.feature for feature in first] == expected[::-1][:10]
    assert features(database, run, order, LATENTS, LATENTS + 10) == []


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("feature", 17, None),
        ("density", 0.25, 0.5),
        ("emergence_step", 64, None),
        ("emergence_step", 1, 64),
        ("peak_step", 512, None),
        ("class", "initialisation", None),
    ],
)
def test_a_selection_is_what_a_filter_of_the_table_finds(
    database: Database[Any], run: Run, table: pd.DataFrame, field: Selector, low: Any, high: Any
) -> None:
    chosen = table[field] == low if high is None else (table[field] >= low) & (table[field] <= high)
    expected = list(table.feature[chosen])
    assert [feature.feature for feature in select(database, run, field, low, high)] == expected
    assert 0 < len(expected) < LATENTS


@pytest.mark.parametrize("field", [*INDEXED, *(f"rank_{name}" for name in RANKED)])
def test_every_question_is_a_range_of_an_index(database: Database[Any], run: Run, field: str) -> None:
    question = {"find": FEATURES, "filter": {"content": run.content, field: {"$gte": 1, "$lt": 3}}}
    plan = database.command({"explain": question})["queryPlanner"]["winningPlan"]
    assert plan["inputStage"]["stage"] == "IXSCAN"
    assert plan["inputStage"]["keyPattern"] == {"content": 1, field: 1}


def test_samples_are_what_the_table_says(database: Database[Any], run: Run, files: RunFiles) -> None:
    table = pq.read_table(files.features / "samples.parquet").to_pylist()
    for number in (0, 5, 150, 199):
        found = [sample.model_dump() for sample in feature_samples(database, run, number)]
        assert found == [{k: v for k, v in row.items() if k != "feature"} for row in table if row["feature"] == number]
    assert feature_samples(database, run, 5) == [], "feature 5 is dead"
    assert any(value is None for row in table for value in row["activations"])


def test_a_dictionary_over_one_site_is_read_alike(database: Database[Any]) -> None:
    run = visible_run(database, visible_runs(database)[1])
    assert len(run.sites) == 1
    assert [len(feature.decoder_norms) for feature in features(database, run)] == [1] * 8


def test_a_feature_that_is_not_there_is_one_line(database: Database[Any], run: Run) -> None:
    with pytest.raises(UserError, match=r"run latents200-k4-seed0: there is no feature 200; expected 0 to 199"):
        feature_samples(database, run, 200)


def test_documents_of_another_version_are_not_misread(database: Database[Any]) -> None:
    database[RUNS].insert_one({"_id": "old/d/r", "study": "old", "dictionary": "d", "run": "r", "schema_version": 0})
    with pytest.raises(UserError, match=r"old/d/r: its version is 0, expected 1; ingest the run again"):
        visible_run(database, RunName("old", "d", "r"))
    database[RUNS].delete_one({"_id": "old/d/r"})


def test_ranks_place_absent_values_last_and_equals_by_number(database: Database[Any], run: Run) -> None:
    found = features(database, run, "emergence_step")
    assert found[-1].emergence_step is None
    steps = [feature.emergence_step for feature in found[:-1]]
    assert steps == sorted(np.asarray(steps).tolist())
    same = [feature.feature for feature in found if feature.emergence_step == 64]
    assert same == sorted(same)
