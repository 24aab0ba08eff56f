"""The figures of the two phases and of norms as strengths draw their tables, and count by their thresholds."""

from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd
import pytest
from default_tables import default_tables
from figure_drawing import drawn, lines, words
from matplotlib.collections import PolyCollection

from ontogeny.figures.norm_as_strength import spearman
from ontogeny.figures.writer import figure_module


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Tables of the default study, by figure."""
    return default_tables(tmp_path_factory.mktemp("results"))


def test_two_phases_draws_its_tables(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("two_phases", tables["two_phases"])
    kl, loss, dimensionality = figure.axes
    ngram = pd.read_csv(tables["two_phases"][0])
    value = {metric: rows.sort_values("step")["value"].to_numpy() for metric, rows in ngram.groupby("metric")}
    for axis, expected in (
        (kl, [value["kl_unigram"], value["kl_bigram"]]),
        (loss, [value["nll"]]),
        (dimensionality, [pd.read_csv(tables["two_phases"][1])["value"].to_numpy()]),
    ):
        on_paper = np.concatenate([line[:, 1] for line in lines(axis)])
        np.testing.assert_array_equal(on_paper, np.concatenate(expected))
    levels = [
        line.get_ydata()[0] for line in loss.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) > 1
    ]
    levels = [level for level in levels if level > 0]  # the break of the axis lies at 0
    assert levels == [value["nll_unigram"][0], value["nll_bigram"][0]]
    assert set(words(kl)) == {"a", "unigram", "bigram"}
    assert set(words(loss)) == {"b", "model", "unigram", "bigram"}
    drawn_kl = numbers[(numbers["panel"] == "kl") & (numbers["series"] == "bigram")]
    np.testing.assert_array_equal(drawn_kl["value"], value["kl_bigram"])
    assert "smoothing" in set(numbers["panel"])


def test_bands_of_two_phases_are_intervals_over_documents(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("two_phases", tables["two_phases"])
    measured = numbers[numbers["panel"].isin(["kl", "loss"])]
    assert set(measured["groups"]) == {24}
    for error, rows in ((0.05, measured["series"] == "unigram"), (0.04, measured["series"] == "bigram")):
        loss = measured[rows & (measured["panel"] == "loss")].iloc[0]
        reach = 2.0687 * error  # the quantile of Student's t with 23 degrees of freedom
        assert (loss["low"], loss["high"]) == pytest.approx((loss["value"] - reach, loss["value"] + reach), abs=1e-5)
    others = numbers[~numbers["panel"].isin(["kl", "loss"])]
    assert others[["low", "high", "groups"]].isna().all(axis=None)
    bands = [[band for band in axis.collections if isinstance(band, PolyCollection)] for axis in figure.axes]
    assert [len(found) for found in bands] == [2, 3, 0]
    after_0 = measured[(measured["panel"] == "kl") & (measured["series"] == "bigram") & (measured["step"] > 0)]
    (corners,) = (path.vertices for path in bands[0][1].get_paths())
    assert {*corners[:, 1]} == {*after_0["low"], *after_0["high"]}


def test_the_warm_up_is_marked_where_it_is_known(tables: dict[str, list[Path]]) -> None:
    for steps, marked in ((None, False), (0, False), (64, True), (10**6, True)):
        figure, _ = drawn("two_phases", tables["two_phases"], warmup_steps=steps)
        assert [("warm-up" in words(axis)) for axis in figure.axes] == [marked] * 3
        if steps == 64:
            for axis in figure.axes:
                (ground,) = axis.patches
                assert ground.get_x() + ground.get_width() == pytest.approx(np.log10(64))
                assert ground.get_x() == axis.get_xlim()[0]


def test_a_model_that_never_passes_the_ngrams_is_said_to(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    table = pd.read_csv(tables["two_phases"][0])
    table.loc[table["metric"] == "nll_bigram", "value"] = 1.0
    table.to_csv(tmp_path / "ngram-neox.csv", index=False)
    _, numbers = drawn("two_phases", [tmp_path / "ngram-neox.csv"])
    finding = figure_module("two_phases").caption(numbers).finding
    assert "the loss of bigrams is 1 nats, which the model never passes." in finding
    assert "dimensionality" not in finding


def expected_points(file: Path) -> pd.DataFrame:
    """Normalise probes with plain loops over features."""
    parts = []
    for _, rows in pd.read_csv(file).groupby("feature"):
        largest, best = max(rows["decoder_norm"]), max(rows["r2"])
        norm, probe, scaling = rows["decoder_norm"] / largest, rows["r2"] / best, rows["beta"] / largest
        kinds = [
            "" if n > 0.5 else "gone" if p < 0.5 else "shrunk" if s >= 2 * n else "faded"
            for n, p, s in zip(norm, probe, scaling, strict=True)
        ]
        parts.append(rows[["feature", "step"]].assign(norm=norm, probe=probe, scaling=scaling, kind=kinds))
    return pd.concat(parts)


def rank_correlation(x: pd.Series, y: pd.Series) -> float:
    """Take Spearman's correlation from ranks that are counted: how many are less, and half of those that are equal."""
    ranks = [(v[:, None] > v).sum(1) + ((v[:, None] == v).sum(1) + 1) / 2 for v in (x.to_numpy(), y.to_numpy())]
    return float(np.corrcoef(*ranks)[0, 1])


def test_norm_as_strength_draws_and_counts_its_table(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("norm_as_strength", tables["norm_as_strength"])
    expected = expected_points(tables["norm_as_strength"][0])
    for axis, name in zip(figure.axes, ("probe", "scaling"), strict=False):
        points = numbers[numbers["panel"] == f"{name} points"]
        np.testing.assert_allclose(points["value"], expected[name], rtol=1e-12)
        np.testing.assert_allclose(points["norm"], expected["norm"], rtol=1e-12)
        assert points["kind"].tolist() == expected["kind"].tolist()
        dots = next(line for line in axis.lines if line.get_marker() == ".")
        np.testing.assert_array_equal(dots.get_xydata(), points[["norm", "value"]].to_numpy())

        bins = numbers[numbers["panel"] == name]
        np.testing.assert_array_equal(lines(axis)[0], bins[["norm", "value"]].to_numpy())
        inside = expected[(expected["norm"] >= 0.3) & (expected["norm"] < 0.4)][name]
        third = bins[np.isclose(bins["norm"], 0.35)].iloc[0]
        assert (third["value"], third["number"]) == (pytest.approx(inside.median()), len(inside))
        assert (third["low"], third["high"]) == tuple(pytest.approx(inside.quantile(q)) for q in (0.25, 0.75))

        found = numbers[numbers["panel"] == f"{name} correlation"].iloc[0]
        assert found["value"] == pytest.approx(rank_correlation(expected["norm"], expected[name]))
        assert found["low"] < found["value"] < found["high"]
        assert any(f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})" in word for word in words(axis))

    counts = numbers[numbers["panel"] == "low"].groupby("kind")["value"].sum().to_dict()
    assert counts == {kind: (expected["kind"] == kind).sum() for kind in ("gone", "faded", "shrunk")}
    assert min(counts.values()) > 20
    heights: dict[str, float] = {}
    for kind, container in zip(("gone", "faded", "shrunk"), figure.axes[2].containers, strict=True):
        heights[kind] = sum(bar.get_height() for bar in container)
    assert heights == counts
    assert set(words(figure.axes[2])) >= {f"{kind}\n{count:,.0f}" for kind, count in counts.items()}
    finding = figure_module("norm_as_strength").caption(numbers).finding
    for part in (
        f"{counts['gone']:.0f} gone (R^2 below 0.5 of the best)",
        f"{counts['shrunk']:.0f} shrunk",
        "0.5 or less",
    ):
        assert part in finding


def test_features_that_no_site_reads_are_left_out(tmp_path: Path) -> None:
    file = made_up.probes(tmp_path)
    table = pd.read_csv(file)
    table.loc[table["feature"] == 3, "r2"] = 0.05
    table.to_csv(file, index=False)
    _, numbers = drawn("norm_as_strength", [file])
    assert 3 not in set(numbers["feature"].dropna())
    read = numbers[numbers["panel"] == "read"].iloc[0]
    assert (read["value"], read["number"]) == (59, 60)
    # Wilson: (59/60 + z^2/120 -+ z sqrt(59/60 1/60 / 60 + z^2/14400)) / (1 + z^2/60) is 0.9114 to 0.9971.
    assert (read["low"], read["high"]) == pytest.approx((0.9114 * 60, 0.9971 * 60), abs=0.01)
    low = numbers[numbers["panel"] == "low"]
    assert ((low["low"] <= low["value"]) & (low["value"] <= low["high"]) & (low["high"] <= low["number"])).all()


def test_the_interval_is_over_features_and_not_over_their_sites() -> None:
    random = np.random.default_rng(0)
    apart = pd.DataFrame({"feature": np.arange(40), "norm": random.random(40), "value": random.random(40)})
    copies = pd.concat([apart] * 12)  # twelve sites that say the same tell no more than one
    one, many = spearman(apart, 500, 0), spearman(copies, 500, 0)
    assert many == pytest.approx(one, abs=0.02)
    assert one.high - one.low > 0.4
    perfect = apart.assign(value=apart["norm"] ** 3)
    assert spearman(perfect, 20, 0) == pytest.approx((1, 1, 1))
