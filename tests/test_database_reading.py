from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from database_files import SITES, TASKS, RunFiles, write_run
from pymongo.database import Database

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import FEATURES, INDEXES, RUNS, Run, RunName
from ontogeny.database.ingest import write_receipt
from ontogeny.database.reading import NotFoundError, read_details, read_features, visible_run, visible_runs
from ontogeny.errors import UserError
from ontogeny.evaluation.emergence import feature_classes

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
    """A database with two runs, held open while they are ingested, as the web page does; the second has no more tables
    than every run has.
    """
    settings, home, receipt = DatabaseSettings(), root / "server", root / "receipt.json"
    with connect(settings, home) as database:
        write_receipt(settings, home, *files, receipt, None, besides=files.besides())
        one_site = write_run(root, "latents8-k4-seed0", latents=8, sites=SITES[:1])
        write_receipt(settings, home, *one_site, receipt, None)
        yield database


@pytest.fixture(scope="module")
def run(database: Database[Any]) -> Run:
    return visible_run(database, NAME)


def rows(file: Path) -> dict[int, dict[str, Any]]:
    return {row["feature"]: row for row in pq.read_table(file).to_pylist()}


def test_a_run_says_what_was_measured_where(run: Run) -> None:
    assert (run.latents, run.sparsity, run.seed, run.study) == (LATENTS, 4.0, 0, "planets")
    assert (run.threshold, run.rows) == (0.5, 4096)
    assert [(site.model, site.step, site.hook) for site in run.sites] == SITES
    assert {metric.metric: metric.value for metric in run.metrics} == {"fvu": 0.125, "dead": 0.0625}
    last = {metric.metric: (metric.value, metric.tokens, metric.split) for metric in run.sites[-1].metrics}
    assert last == {
        "fvu": (0.25, 4096, "heldout"),
        "nll_clean": (6.0, 2048, "heldout"),
        "recovered_mean": (0.9, 2048, "heldout"),
    }
    assert {metric.metric: metric.value for metric in run.sites[0].metrics}["recovered_mean"] is None


def test_features_are_what_the_tables_say(database: Database[Any], run: Run, files: RunFiles) -> None:
    table = pq.read_table(files.features / "features.parquet").to_pandas()
    types, rated = rows(files.metrics / "feature_types.parquet"), rows(files.features / "interpretations.parquet")
    found = read_features(database, run, range(LATENTS))
    for feature, (_, row) in zip(found, table.iterrows(), strict=True):
        said = feature.model_dump(by_alias=True)
        assert said["decoder_norms"] == list(row.decoder_norm)
        assert said["normalised_norms"] == list(row.normalised_norm)
        assert said["peak_norm"] == max(row.decoder_norm)
        for name in ("feature", "density", "mean_activation", "max_activation", "persistence", "dead"):
            assert said[name] == row[name], name
        for name in ("peak_site", "peak_step", "emergence_site", "emergence_step"):
            assert said[name] == (None if pd.isna(row[name]) else row[name]), name
        assert said["type"] == types.get(feature.feature, {}).get("type")
        assert said["context_needed"] == types.get(feature.feature, {}).get("context_needed")
        rating = rated.get(feature.feature)
        if rating and rating["explanation"]:
            assert said["interpretation"] == {name: value for name, value in rating.items() if name != "feature"}
        else:
            assert said["interpretation"] is None
    exist = [feature for feature in found if feature.class_]
    norms = np.array([feature.normalised_norms for feature in exist])
    assert [feature.class_ for feature in exist] == list(feature_classes(norms, 0.5))
    assert (found[3].peak_step, found[3].class_, found[3].promoted) == (None, None, [])
    assert found[5].dead
    assert found[5].snippet is None


def test_details_are_what_the_tables_say(database: Database[Any], run: Run, files: RunFiles) -> None:
    samples = pq.read_table(files.features / "samples.parquet").to_pylist()
    decoders, features = rows(files.features / "decoders.parquet"), rows(files.features / "features.parquet")
    attributed = rows(files.metrics / "attributions-neox.parquet")
    for number in (0, 3, 5, 150, 199):
        details, decoder = read_details(database, run, number), decoders[number]
        expected = [{k: v for k, v in row.items() if k != "feature"} for row in samples if row["feature"] == number]
        assert [sample.model_dump() for sample in details.samples] == expected
        assert details.histogram == features[number]["histogram"]
        assert details.rotation == decoder["rotation"]
        assert (details.neighbours, details.neighbour_cosines) == (decoder["neighbours"], decoder["neighbour_cosines"])
        assert [promotion.promoted for promotion in details.promotions] == decoder["promoted_texts"]
        assert [promotion.suppressed_logits for promotion in details.promotions] == decoder["suppressed_logits"]
        assert [(found.model, found.task) for found in details.attributions] == [("neox", task) for task in TASKS]
        assert [found.values for found in details.attributions] == [attributed[number][task] for task in TASKS]
    assert read_details(database, run, 5).samples == [], "feature 5 is dead"
    assert any(value is None for row in samples for value in row["activations"])
    assert {row["quantile"] for row in samples} == {None, 0, 1}


def test_a_row_of_a_list_has_the_place_where_the_feature_fires_most_and_what_it_promotes_at_its_peak(
    database: Database[Any], run: Run
) -> None:
    feature, details = read_features(database, run, [7])[0], read_details(database, run, 7)
    top = details.samples[0]
    middle = top.position - top.start
    assert feature.snippet is not None
    assert feature.snippet.texts == top.texts[middle - 6 : middle + 7]
    assert feature.snippet.activations == top.activations[middle - 6 : middle + 7]
    assert feature.peak_site is not None
    assert feature.promoted == details.promotions[feature.peak_site].promoted[:5]


def test_a_run_with_nothing_but_features_and_samples_is_read_alike(database: Database[Any]) -> None:
    run = visible_run(database, visible_runs(database)[1])
    assert len(run.sites) == 1
    assert not {"type", "complexity", "context_needed"} & {*run.columns}
    assert [len(feature.decoder_norms) for feature in read_features(database, run, range(8))] == [1] * 8
    details = read_details(database, run, 0)
    assert (details.rotation, details.neighbours, details.promotions, details.attributions) == ([], [], [], [])


def test_features_come_in_the_order_asked_for(database: Database[Any], run: Run) -> None:
    assert [feature.feature for feature in read_features(database, run, [9, 2, 150])] == [9, 2, 150]
    assert read_features(database, run, []) == []


@pytest.mark.parametrize("number", [200, -1])
def test_a_feature_that_is_not_there_is_one_line(database: Database[Any], run: Run, number: int) -> None:
    said = rf"run latents200-k4-seed0: there is no feature {number}; expected 0 to 199"
    with pytest.raises(NotFoundError, match=said):
        read_details(database, run, number)
    with pytest.raises(NotFoundError, match=said):
        read_features(database, run, [1, number])


def test_documents_of_another_version_are_not_misread(database: Database[Any]) -> None:
    database[RUNS].insert_one({"_id": "old/d/r", "study": "old", "dictionary": "d", "run": "r", "schema_version": 1})
    with pytest.raises(UserError, match=r"old/d/r: its version is 1, expected 2; ingest the run again"):
        visible_run(database, RunName("old", "d", "r"))
    database[RUNS].delete_one({"_id": "old/d/r"})


@pytest.mark.parametrize("collection", INDEXES)
def test_contents_are_told_apart_by_an_index(database: Database[Any], run: Run, collection: str) -> None:
    first, second = INDEXES[collection]
    question = {"find": collection, "filter": {first: run.content, second: {"$gte": 1, "$lt": 3}}}
    plan = database.command({"explain": question})["queryPlanner"]["winningPlan"]
    assert plan["inputStage"]["stage"] == "IXSCAN"
    assert plan["inputStage"]["keyPattern"] == {first: 1, second: 1}


def test_pages_are_read_by_key(database: Database[Any], run: Run) -> None:
    asked = {"find": FEATURES, "filter": {"_id": {"$in": [f"{run.content}/{n}" for n in range(3)]}}}
    plan = database.command({"explain": asked})["queryPlanner"]["winningPlan"]
    assert "COLLSCAN" not in str(plan)
