from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from database_files import SITES, RunFiles, write_run
from pymongo.database import Database

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import Run, RunName
from ontogeny.database.edits import Change, ConflictError, change, edit_of, edits_of
from ontogeny.database.ingest import write_receipt
from ontogeny.database.query import Query, find_features, read_columns
from ontogeny.database.reading import NotFoundError, read_features, visible_run
from ontogeny.database.terms import words_of
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
    settings, home = DatabaseSettings(), root / "server"
    two = write_run(root, "latents30-k4-seed0", latents=30, sites=SITES[:2])
    with connect(settings, home) as database:
        for one in (files, two):
            write_receipt(settings, home, *one, root / "receipt.json", None, besides=one.besides())
        yield database


@pytest.fixture(scope="module")
def run(database: Database[Any]) -> Run:
    return visible_run(database, NAME)


@pytest.fixture(scope="module")
def table(database: Database[Any], run: Run) -> pd.DataFrame:
    """The documents of all features as a table, so that what a query finds is told by other means."""
    found = [feature.model_dump(by_alias=True) for feature in read_features(database, run, range(LATENTS))]
    return pd.DataFrame(found)


@pytest.mark.parametrize("order", ["feature", "density", "emergence_step", "peak_step", "peak_norm", "context_needed"])
@pytest.mark.parametrize("descending", [False, True])
def test_lists_follow_the_order_with_absent_values_last_and_equals_by_number(
    database: Database[Any], run: Run, table: pd.DataFrame, order: str, descending: bool
) -> None:
    ordered = table.sort_values([order, "feature"], ascending=[not descending, True], na_position="last")
    assert list(find_features(database, run, Query(order=order, descending=descending))) == list(ordered.feature)


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [("density", 0.25, 0.5), ("emergence_step", 64, 64), ("emergence_step", 1, None), ("peak_step", None, 4)],
)
def test_a_range_finds_what_a_filter_of_the_table_finds(
    database: Database[Any], run: Run, table: pd.DataFrame, column: str, low: float | None, high: float | None
) -> None:
    values = table[column]
    chosen = values.notna() & (low is None or values >= low) & (high is None or values <= high)
    found = find_features(database, run, Query(between={column: (low, high)}))
    assert list(found) == list(table.feature[chosen])
    assert 0 < len(found) < LATENTS


def test_filters_join(database: Database[Any], run: Run, table: pd.DataFrame) -> None:
    query = Query(
        between={"density": (0.1, None), "dead": (0, 0)},
        among={"class": ("fading", "lasting"), "type": ("induction", "other")},
        order="peak_norm",
        descending=True,
    )
    chosen = table[(table.density >= 0.1) & table["class"].isin(["fading", "lasting"])]
    chosen = chosen[chosen["type"].isin(["induction", "other"])]
    assert list(find_features(database, run, query)) == list(chosen.sort_values("peak_norm", ascending=False).feature)
    assert 0 < len(chosen) < LATENTS
    assert not len(find_features(database, run, Query(among={"class": ("no such class",)})))


def test_the_column_of_a_task_is_the_largest_attribution_by_magnitude(
    database: Database[Any], run: Run, files: RunFiles
) -> None:
    rows = pq.read_table(files.metrics / "attributions-neox.parquet")["induction"].to_pylist()
    expected = [max(values, key=abs) for values in rows]
    name = "attribution/neox/induction"
    assert list(read_columns(database, run, [name])[name].values) == expected
    assert find_features(database, run, Query(order=name, descending=True))[0] == int(np.argmax(expected))


def test_two_sites_have_a_relative_norm_and_a_cosine(database: Database[Any]) -> None:
    run = visible_run(database, NAME._replace(run="latents30-k4-seed0"))
    columns = read_columns(database, run, ["relative_norm", "decoder_cosine"])
    for feature in read_features(database, run, range(30)):
        first, second = feature.decoder_norms
        expected = second / (first + second) if first + second else np.nan
        assert columns["relative_norm"].values[feature.feature] == pytest.approx(expected, nan_ok=True)


def hits(database: Database[Any], run: Run, words: str, **options: Any) -> set[int]:
    return set(find_features(database, run, Query(words=words, **options)).tolist())


def test_a_word_finds_the_features_that_fire_on_it_or_promote_it(
    database: Database[Any], run: Run, files: RunFiles
) -> None:
    samples = pq.read_table(files.features / "samples.parquet").to_pylist()
    decoders = pq.read_table(files.features / "decoders.parquet").to_pylist()
    word = samples[0]["texts"][3].strip()
    assert samples[0]["activations"][3]
    fired, around = set(), set()
    for row in samples:
        for text, activation in zip(row["texts"], row["activations"], strict=True):
            if text.strip() == word:
                around.add(row["feature"])
                if activation:
                    fired.add(row["feature"])
    promoting = {row["feature"] for row in decoders if any(f" {word}" in texts for texts in row["promoted_texts"])}
    assert hits(database, run, word.upper()) == fired | promoting
    assert hits(database, run, word, in_context=True) == around | promoting
    assert 0 in fired
    assert len(fired | promoting) < LATENTS


def test_all_words_must_be_there_and_a_star_stands_for_any_end(database: Database[Any], run: Run) -> None:
    one, two = hits(database, run, "w12"), hits(database, run, "w77")
    assert hits(database, run, "w12 w77") == one & two
    begin = hits(database, run, "w12*")
    assert begin == set.union(*(hits(database, run, f"w12{end}") for end in ["", *range(10), *range(10, 100)]))
    assert begin > one
    assert hits(database, run, "concept") == hits(database, run, "concep*") != set()
    assert hits(database, run, "no-such-word") == set()


@pytest.mark.parametrize("words", ["$ne", "{'$gt': ''}", "../", "*", "**", " ", "\\", "a\x00b", "💥"])
def test_no_text_is_more_than_a_text(database: Database[Any], run: Run, words: str) -> None:
    assert hits(database, run, words) in (set(), set(range(LATENTS)))


def test_words_are_cut_alike_wherever_they_stand() -> None:
    assert words_of(" The U.S. House, it's 1898") == ["the", "u", ".", "s", ".", "house", ",", "it", "'", "s", "1898"]
    assert words_of("STRASSE Straße") == ["strasse", "strasse"]
    assert words_of("x" * 99) == ["x" * 64]


def test_a_column_that_is_not_there_is_one_line(database: Database[Any], run: Run) -> None:
    with pytest.raises(UserError, match=r"there is no column '\$where'; there are attribution/neox/agreement, "):
        find_features(database, run, Query(order="$where"))


def test_what_people_add_is_found_and_stays(database: Database[Any], run: Run) -> None:
    assert edit_of(database, run, 7).revision == 0
    first = change(database, run, 7, Change(bookmark=True, tags=("verbs", "odd", "odd")))
    assert (first.bookmark, first.tags, first.revision) == (True, ["odd", "verbs"], 1)
    second = change(database, run, 7, Change(interpretation="  Zebra crossings "), revision=1)
    assert (second.interpretation, second.bookmark, second.revision) == ("Zebra crossings", True, 2)
    change(database, run, 9, Change(note="zebras too"))
    assert edit_of(database, run, 7) == second
    assert [edit.feature for edit in edits_of(database, run)] == [7, 9]
    assert list(find_features(database, run, Query(bookmarked=True))) == [7]
    assert list(find_features(database, run, Query(tag="odd"))) == [7]
    assert hits(database, run, "zebra") == {7}
    assert hits(database, run, "zebra*") == {7, 9}
    other = visible_run(database, NAME._replace(run="latents30-k4-seed0"))
    assert edits_of(database, other) == []


def test_a_change_upon_an_old_page_is_refused(database: Database[Any], run: Run) -> None:
    change(database, run, 20, Change(note="one"), revision=0)
    with pytest.raises(ConflictError, match="feature 20 was changed elsewhere since this page was opened; reload it"):
        change(database, run, 20, Change(note="two"), revision=0)
    assert edit_of(database, run, 20).note == "one"
    with pytest.raises(NotFoundError, match="there is no feature 200"):
        change(database, run, 200, Change(note="two"))


def test_edits_have_a_version_of_their_own(database: Database[Any], run: Run) -> None:
    change(database, run, 25, Change(note="old"))
    assert database["edits"].find_one({"_id": f"{run.weights}/25"})["schema_version"] == 1
    database["edits"].update_one({"_id": f"{run.weights}/25"}, {"$set": {"schema_version": 9}})
    with pytest.raises(UserError, match="its version is 9, expected 1"):
        edit_of(database, run, 25)
    database["edits"].delete_one({"_id": f"{run.weights}/25"})


def test_edits_stay_when_tables_are_made_anew(root: Path, database: Database[Any], run: Run) -> None:
    change(database, run, 30, Change(note="stays"))
    files = write_run(root, NAME.run, latents=LATENTS, samples=4)
    write_receipt(DatabaseSettings(), root / "server", *files, root / "receipt.json", None)
    again = visible_run(database, NAME)
    assert again.content != run.content
    assert edit_of(database, again, 30).note == "stays"
