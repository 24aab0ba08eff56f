"""Types of features and their complexity as figures: what is drawn is what was measured."""

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import figure_tables as made_up
import jinja2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from figure_drawing import check_refused, drawn, words
from interpreted_features import rated_of

from ontogeny.figures.complexity import DESCRIPTION, RATED
from ontogeny.figures.correlation import correlation, interval
from ontogeny.figures.writer import figure_module
from ontogeny.randomness import generator


def test_correlations_by_hand() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.0, 3.0, 1.0, 1.0])
    # Ranks are 1, 2.5, 2.5, 4 and 1, 4, 2.5, 2.5: sums of products of deviations are 2.25, 4.5 and 4.5.
    assert correlation(x, y, 10, 0, 0).value == pytest.approx(2.25 / 4.5)
    assert correlation(x, y, 10, 0, 0, ranked=False).value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert np.isnan(correlation(x, y, 10, 0, 0).p), "no shuffles were asked for"
    assert all(np.isnan(correlation(np.ones(4), y, 10, 10, 0)))


def test_permutation_p_is_that_of_all_orders() -> None:
    random = np.random.default_rng(3)
    x, y = random.integers(0, 4, 6).astype(float), random.standard_normal(6)
    all_orders = [abs(correlation(x, np.array(order), 2, 0, 0).value) for order in permutations(y)]
    found = correlation(x, y, 2, 20_000, 0)
    assert found.p == pytest.approx(np.mean(np.array(all_orders) >= abs(found.value) - 1e-12), abs=0.01)
    assert correlation(np.arange(30.0), np.arange(30.0), 2, 99, 0).p == 1 / 100, "never 0"


def test_interval_is_that_of_known_noise() -> None:
    """For a normal distribution with correlation 0.5, Fisher's z has a standard error of 1 / sqrt(n - 3)."""
    random = np.random.default_rng(0)
    x = random.standard_normal(2000)
    found = correlation(x, 0.5 * x + np.sqrt(0.75) * random.standard_normal(2000), 1000, 0, 0, ranked=False)
    half = (np.arctanh(found.high) - np.arctanh(found.low)) / 2
    assert half == pytest.approx(1.96 / np.sqrt(1997), rel=0.1)
    assert found.low < 0.5 < found.high


@pytest.mark.parametrize("ranked", [True, False])
def test_interval_draws_features_with_all_their_rows(ranked: bool) -> None:
    random = np.random.default_rng(1)
    x, y = random.integers(0, 5, 40).astype(float), random.integers(0, 7, 40).astype(float)
    feature = np.repeat(np.arange(20), 2)
    frame = pd.DataFrame({"x": x, "y": x + y}).groupby(feature)
    draws = generator(5, "bootstrap")
    drawn = []
    for _ in range(300):
        rows = pd.concat([frame.get_group(chosen) for chosen in draws.integers(20, size=20)])
        rows = rows.rank() if ranked else rows
        drawn.append(rows["x"].corr(rows["y"]))
    expected = np.percentile(drawn, (2.5, 97.5))
    assert interval(x, x + y, feature, 300, 5, ranked) == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("results")
    return made_up.types_of(folder, made_up.features(folder, made_up.norms(400)), made_up.TYPES[:4])


def joined(tables: list[Path]) -> pd.DataFrame:
    return pq.read_table(tables[0]).to_pandas().merge(pq.read_table(tables[1]).to_pandas(), on="feature")


def test_types_are_drawn_with_their_medians(tables: list[Path]) -> None:
    figure, numbers = drawn("feature_types", tables, singles=3)
    table = joined(tables)
    assert [words(axis)[-2] for axis in figure.axes] == [
        f"{name}\n{(table['type'] == name).sum()} of {len(table)}" for name in made_up.TYPES[:4]
    ]
    for name, own in table.groupby("type"):
        norms_FS = np.stack(own["normalised_norm"])
        rows = numbers[(numbers["panel"] == "type") & (numbers["type"] == name)]
        assert rows["step"].tolist() == list(made_up.STEPS)
        for column, share in (("low", 0.25), ("value", 0.5), ("high", 0.75)):
            np.testing.assert_allclose(rows[column], np.quantile(norms_FS, share, axis=0))
        singles = numbers[(numbers["panel"] == "single") & (numbers["type"] == name)]
        assert singles["feature"].nunique() == 3
        for feature, of_feature in singles.groupby("feature"):
            expected = own.loc[own["feature"] == feature, "normalised_norm"].iloc[0]
            np.testing.assert_allclose(of_feature["value"], expected)
    assert "0 are other" in figure_module("feature_types").caption(numbers).finding


def test_complexity_counts_and_correlates_features(tables: list[Path]) -> None:
    _, numbers = drawn("complexity", tables, resamples=200, permutations=99)
    table = joined(tables)
    circles = numbers[numbers["panel"] == "features"].set_index(["step", "context"])["features"]
    assert circles.to_dict() == table.groupby(["emergence_step", "context_needed"]).size().to_dict()
    medians = numbers[numbers["panel"] == "median"].set_index("step")["value"]
    assert medians.to_dict() == table.groupby("emergence_step")["context_needed"].median().to_dict()
    rows = numbers[numbers["statistic"] == "spearman"].set_index("threshold")
    norms_FS = np.stack(table["normalised_norm"])
    for tau in (0.2, 0.5, 0.8):
        first = pd.Series((norms_FS > tau).argmax(axis=1))
        expected = np.corrcoef(first.rank(), table["context_needed"].rank())[0, 1]
        assert rows.loc[tau, "value"] == pytest.approx(expected)
    assert rows["p"].notna().sum() == 1
    assert rows.loc[0.5, "p"] == 1 / 100
    pearson = numbers[numbers["statistic"] == "pearson"].iloc[0]
    logs = np.log10(1 + table["emergence_step"]), np.log2(table["context_needed"])
    assert pearson["value"] == pytest.approx(np.corrcoef(*logs)[0, 1])
    finding = figure_module("complexity").caption(numbers).finding
    assert f"Spearman's rho is {rows.loc[0.5, 'value']:.2f}" in finding


def test_complexity_sets_ratings_against_emergence(tables: list[Path], tmp_path: Path) -> None:
    rated = [*tables, rated_of(tmp_path, made_up.features(tmp_path, made_up.norms(400)))[2]]
    figure, numbers = drawn("complexity", rated, resamples=200, permutations=99)
    table = pq.read_table(tables[0]).to_pandas().merge(pq.read_table(rated[2]).to_pandas(), on="feature")
    table = table[~table["dead"]]
    known = table[table["complexity"].notna()]
    assert 0 < len(known) < len(table)
    circles = numbers[numbers["panel"] == "rating features"].set_index(["step", "rating"])["features"]
    assert circles.to_dict() == known.groupby(["emergence_step", "complexity"]).size().to_dict()
    medians = numbers[numbers["panel"] == "rating median"].set_index("step")
    assert medians["value"].to_dict() == known.groupby("emergence_step")["complexity"].median().to_dict()
    assert medians["features"].to_dict() == known.groupby("emergence_step").size().to_dict()
    rows = numbers[numbers["panel"] == "rating correlation"].set_index(["statistic", "threshold"])
    norms_FS = np.stack(known["normalised_norm"])
    for tau in (0.2, 0.5, 0.8):
        first = pd.Series((norms_FS > tau).argmax(axis=1), index=known.index)
        expected = np.corrcoef(first.rank(), known["complexity"].rank())[0, 1]
        assert rows.loc[("spearman", tau), "value"] == pytest.approx(expected)
    log = np.log10(1 + known["emergence_step"].to_numpy(dtype=float))
    assert rows.loc[("pearson", 0.5), "value"] == pytest.approx(
        np.corrcoef(log, known["complexity"].astype(float))[0, 1]
    )
    assert rows["p"].dropna().tolist() == [1 / 100] * 2
    assert set(rows["features"]) == {len(known)}
    scores = numbers[numbers["panel"] == "scores"].set_index("statistic")
    for name in ("detection", "fuzzing"):
        assert scores.loc[name, ["low", "value", "high"]].tolist() == table[name].quantile([0.25, 0.5, 0.75]).tolist()
        assert scores.loc[name, "features"] == table[name].count()
    assert set(numbers["judge"]) == {"judge-1"}
    said = figure_module("complexity").caption(numbers)
    assert (
        f"Of {len(known)} features rated by judge-1, Spearman's rho is {rows.loc[('spearman', 0.5), 'value']:.2f}"
        in said.finding
    )
    assert (
        f"detection {scores.loc['detection', 'value']:.2f} ({scores.loc['detection', 'features']} features"
        in said.finding
    )
    assert "(c, d)" in said.description
    assert len(figure.axes) == 4


def test_without_ratings_the_figure_says_nothing_of_them(tables: list[Path], tmp_path: Path) -> None:
    _, alone = drawn("complexity", tables, resamples=20, permutations=9)
    rated = [*tables, rated_of(tmp_path, made_up.features(tmp_path, made_up.norms(400)))[2]]
    _, both = drawn("complexity", rated, resamples=20, permutations=9)
    pd.testing.assert_frame_equal(alone, both.loc[both.index < len(alone), alone.columns])
    assert "rated" not in str(figure_module("complexity").caption(alone))


def test_where_nothing_was_rated_the_contexts_are_drawn_and_it_is_said(tables: list[Path], tmp_path: Path) -> None:
    _, alone = drawn("complexity", tables, resamples=20, permutations=9)
    rated = [*tables, rated_of(tmp_path, made_up.features(tmp_path, made_up.norms(400)), unrated=1)[2]]
    figure, numbers = drawn("complexity", rated, resamples=20, permutations=9)
    assert len(figure.axes) == 2
    pd.testing.assert_frame_equal(alone, numbers.loc[numbers.index < len(alone), alone.columns])
    assert numbers.loc[numbers["panel"] == "scores", "features"].tolist() == [0, 0]
    said = figure_module("complexity").caption(numbers)
    assert "Of no feature could an answer of judge-1 be read: (c, d) are left out." in said.finding
    assert RATED not in said.description


def test_features_that_no_longer_fire_are_left_out(tables: list[Path], tmp_path: Path) -> None:
    read = pq.read_table(tables[0])
    frame = read.to_pandas()
    frame.loc[frame.index[~frame["dead"]][:10], "dead"] = True
    place = read.schema.get_field_index("dead")
    pq.write_table(read.set_column(place, "dead", [frame["dead"].to_numpy()]), tmp_path / "features.parquet")
    _, numbers = drawn("feature_types", [tmp_path / "features.parquet", tables[1]])
    total = numbers.loc[(numbers["panel"] == "type") & (numbers["type"] == "all"), "features"].iloc[0]
    assert total == (~frame["dead"]).sum()
    assert json.loads(numbers["settings"].iloc[0])["samples"] == 8


def _labelled(file: Path, labels: dict[bytes, bytes]) -> Path:
    """Replace what a table says of itself: some labels, or all of them where none is given."""
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **labels} if labels else {}), file)
    return file


MISTAKES: dict[str, tuple[str, Callable[[Path], list[Path]], str]] = {
    "types without norms": (
        "feature_types",
        lambda at: made_up.types_of(at, *made_up.features_of(at))[1:],
        "1 tables were named; expected features.parquet, feature_types.parquet",
    ),
    "types of two runs": (
        "feature_types",
        lambda at: [
            *made_up.features_of(at),
            _labelled(made_up.types_of(at, *made_up.features_of(at))[1], {b"run": b"another"}),
        ],
        "feature_types.parquet: it is of another run than the features; run the rule 'feature_types' again",
    ),
    "no types": (
        "feature_types",
        lambda at: [*made_up.features_of(at), at / "feature_types.parquet"],
        "feature_types.parquet: there is no such table",
    ),
    "types without settings": (
        "complexity",
        lambda at: [*made_up.features_of(at), _labelled(made_up.types_of(at, *made_up.features_of(at))[1], {})],
        "'dictionary' is missing; run the rule 'feature_types' again",
    ),
    "ratings of another run": (
        "complexity",
        lambda at: [
            *made_up.types_of(at, *made_up.features_of(at)),
            _labelled(rated_of(at, *made_up.features_of(at))[2], {b"run": b"another"}),
        ],
        "interpretations.parquet: it is of another run than the features; run the rule 'interpretation' again",
    ),
    "ratings by nobody": (
        "complexity",
        lambda at: [
            *made_up.types_of(at, *made_up.features_of(at)),
            _labelled(rated_of(at, *made_up.features_of(at))[2], {}),
        ],
        "interpretations.parquet: 'dictionary' is missing; run the rule 'interpretation' again",
    ),
    "ratings that are not there": (
        "complexity",
        lambda at: [*made_up.types_of(at, *made_up.features_of(at)), at / "interpretations.parquet"],
        "interpretations.parquet: there is no such table",
    ),
    "emergence over layers": (
        "complexity",
        lambda at: made_up.types_of(at, *made_up.features_of(at, sites=made_up.LAYERS)),
        "features emerge at no step",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case: str, tmp_path: Path) -> None:
    name, make, expected = MISTAKES[case]
    check_refused(name, make(tmp_path), expected, tmp_path / "figures")


def test_caption_of_ratings_is_in_the_report_where_there_are_any() -> None:
    job = SimpleNamespace(config={"interpretation": {"endpoint": "http://here"}}, output=("a", "b", "c"))
    source = Path(__file__).parents[1].joinpath("report/complexity.rst").read_text(encoding="utf-8")
    text = " ".join(jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=job).split())
    assert f"{DESCRIPTION}{RATED} Study default;" in text
