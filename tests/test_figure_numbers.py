"""What is drawn is what was measured."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import figure_tables as made_up
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from default_tables import default_tables
from figure_drawing import drawn, lines, words
from matplotlib.collections import PolyCollection

from ontogeny.colours import shades
from ontogeny.evaluation.tables import RunIdentity
from ontogeny.figures.student import student_quantile
from ontogeny.figures.style import CROSSCODERS
from ontogeny.figures.wilson import wilson_interval
from ontogeny.sites import Site


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Tables of the default study, by figure."""
    return default_tables(tmp_path_factory.mktemp("results"))


def test_pareto_compares_at_the_saes_own_site(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("pareto", tables["pareto"])
    metrics = pd.concat(map(pd.read_csv, tables["pareto"]))
    metrics = metrics[metrics["metric"] == "explained_variance"]
    own = numbers[(numbers["dictionary"] == "crosscoder") & (numbers["step"] == 1000)]
    expected = metrics[(metrics["dictionary"] == "crosscoder") & (metrics["step"] == 1000)].sort_values("sparsity")
    assert own["explained_variance"].tolist() == expected["value"].tolist()
    pooled = numbers[(numbers["dictionary"] == "crosscoder") & numbers["step"].isna()]
    expected = metrics[(metrics["dictionary"] == "crosscoder") & metrics["model"].isna()].sort_values("sparsity")
    assert pooled["explained_variance"].tolist() == expected["value"].tolist()

    axis = figure.axes[0]
    in_table = numbers.loc[~numbers["floor"], ["l0", "explained_variance"]].to_numpy().reshape(3, 3, 2)
    np.testing.assert_array_equal(lines(axis), in_table)
    filled = [line.get_markerfacecolor() != "white" for line in axis.lines if line.get_marker() in ("o", "s")]
    assert filled == [True, False, True]
    names = ["crosscoder\nall 12 sites", "crosscoder\nat step 1,000", "SAE\nat step 1,000"]
    assert words(axis) == [*names, "untrained\nfloor, 2 sites\nbefore training"]


def test_pareto_shows_dictionaries_before_training_as_the_floor(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("pareto", tables["pareto"])
    metrics = pd.read_csv(tables["pareto"][-1]).query("metric == 'explained_variance' and model.isna()")
    assert numbers.loc[numbers["floor"], ["dictionary", "sites"]].to_numpy().tolist() == [["untrained", 2]]
    diamond = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
    assert diamond.get_ydata().tolist() == metrics["value"].tolist()


def test_dictionaries_that_differ_in_size_alone_are_one_crosscoder_of_two_sizes(tmp_path: Path) -> None:
    files = [
        made_up.reconstruction(tmp_path, made_up.identity(name, k, latents=latents), shift=(latents - 2048) / 20480)
        for name, latents in (("crosscoder-512", 512), ("crosscoder", 2048), ("other-512", 2048))
        for k in (16, 32)
    ]
    figure, numbers = drawn("pareto", files)
    assert words(figure.axes[0]) == [
        "crosscoder\n512 latents\nall 12 sites", "crosscoder\n2,048 latents\nall 12 sites",
        "other 512\n2,048 latents\nall 12 sites",
    ]  # fmt: skip
    assert list(dict.fromkeys(numbers["dictionary"])) == ["crosscoder-512", "crosscoder", "other-512"]
    small, large, other = (line.get_color() for line in figure.axes[0].lines if line.get_marker() == "o")
    assert [small, large] == shades(CROSSCODERS[0], 2)
    assert other == CROSSCODERS[1]


@pytest.mark.parametrize(("latents", "sites"), [(2048, made_up.SITES), (512, made_up.SITES[:2])])
def test_dictionaries_of_one_size_or_over_other_sites_are_lines_of_their_own(
    tmp_path: Path, latents: int, sites: tuple[Site, ...]
) -> None:
    own = f"crosscoder-{latents}"
    files = [made_up.reconstruction(tmp_path, made_up.identity("crosscoder", k), shift=0.01) for k in (16, 32)]
    files += [made_up.reconstruction(tmp_path, made_up.identity(own, k, latents=latents), sites) for k in (16, 32)]
    figure, numbers = drawn("pareto", files)
    assert numbers["family"].tolist() == ["crosscoder"] * 2 + [own] * 2
    assert [len(line) for line in lines(figure.axes[0])] == [2, 2]
    assert len({line.get_color() for line in figure.axes[0].lines if line.get_marker() == "o"}) == 2


def test_robustness_draws_as_many_features_as_are_matched(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("robustness", tables["robustness"])
    files = tables["robustness"]
    for axis, pairs_file, agreement_file in zip(figure.axes, files[:3], files[3:], strict=True):
        pairs = pd.read_csv(pairs_file).query("matched")
        agreement = pd.read_csv(agreement_file).set_index(["group", "metric"])
        rows = numbers[numbers["other"] == pairs_file.parent.name]
        discs = rows[rows["panel"] == "steps"]
        counted = pairs.groupby(["shared_step", "other_shared_step"]).size()
        expected = [(*steps, count) for steps, count in counted.items()]
        assert (
            list(discs[["shared_step", "other_shared_step", "features"]].itertuples(index=False, name=None)) == expected
        )
        assert len(axis.collections[0].get_offsets()) == len(discs)
        same = discs.loc[discs["shared_step"] == discs["other_shared_step"], "features"].sum() / discs["features"].sum()
        assert same == pytest.approx(agreement.loc[("all", "equal"), "value"])
        found = rows[(rows["group"] == "all") & (rows["metric"] == "matched_share")].iloc[0]
        assert (found["low"], found["high"]) == wilson_interval(len(pairs), int(found["features"]))
        assert found["value"] * found["features"] == pytest.approx(len(pairs))
        value, low, high = agreement.loc[("all", "spearman"), ["value", "low", "high"]]
        assert f"rank correlation {value:.2f} ({low:.2f} to {high:.2f})" in words(axis)


def test_pareto_over_seeds(tmp_path: Path) -> None:
    runs = [made_up.identity("crosscoder", 32, seed) for seed in range(3)]
    shifts = (-0.02, 0.0, 0.01)
    files = [made_up.reconstruction(tmp_path, run, shift=shift) for run, shift in zip(runs, shifts, strict=True)]
    figure, numbers = drawn("pareto", files)
    row = numbers.iloc[0]
    values = [
        float(table.loc[(table["metric"] == "explained_variance") & table["model"].isna(), "value"].iloc[0])
        for table in map(pd.read_csv, files)
    ]
    assert row["seeds"] == 3
    assert row["explained_variance"] == pytest.approx(np.mean(values))
    assert (row["explained_variance_low"], row["explained_variance_high"]) == (min(values), max(values))
    bar = figure.axes[0].collections[1].get_segments()[0]
    np.testing.assert_allclose(sorted(bar[:, 1]), [min(values), max(values)])
    for name in ("pareto", "reconstruction"):
        numbers = drawn(name, files)[1]
        assert import_module(f"ontogeny.figures.{name}").caption(numbers).run == "3 runs of crosscoder"


def test_runs_of_one_k_and_several_coefficients_are_points_of_their_own(tmp_path: Path) -> None:
    runs = [
        RunIdentity("crosscoder", f"latents2048-k32-sparsity{coefficient}-seed{seed}", 2048, 32.0, seed)
        for coefficient in (0.1, 0.4)
        for seed in (-1, 0)
    ]
    shifts = (-1e-4, 0.0, 1e-4, 2e-4)
    files = [made_up.reconstruction(tmp_path, run, shift=shift) for run, shift in zip(runs, shifts, strict=True)]
    _, numbers = drawn("pareto", files)
    values = [
        float(table.loc[(table["metric"] == "explained_variance") & table["model"].isna(), "value"].iloc[0])
        for table in map(pd.read_csv, files)
    ]
    assert numbers["point"].tolist() == ["latents2048-k32-sparsity0.1", "latents2048-k32-sparsity0.4"]
    assert numbers["seeds"].tolist() == [2, 2]
    assert numbers["explained_variance"].tolist() == pytest.approx(
        [np.mean(values[:2]), np.mean(values[2:])], rel=1e-12
    )
    figure, numbers = drawn("reconstruction", files)
    assert numbers.groupby("point").size().tolist() == [12, 12]
    assert words(figure.axes[0])[:2] == ["L0 31.5\nk32-sparsity0.1", "L0 31.5\nk32-sparsity0.4"]


def test_reconstruction_draws_the_table(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("reconstruction", tables["reconstruction"])
    fvu, loss, recovered = figure.axes
    metrics = pd.concat(map(pd.read_csv, tables["reconstruction"]))
    at_step = metrics[(metrics["metric"] == "fvu") & (metrics["step"] == 64) & (metrics["sparsity"] == 32)]
    chosen = (numbers["panel"] == "fvu") & (numbers["step"] == 64) & (numbers["sparsity"] == 32)
    assert numbers.loc[chosen, "value"].tolist() == at_step["value"].tolist()
    in_table = numbers.loc[numbers["panel"] == "fvu", "value"].to_numpy().reshape(3, 12)
    on_paper = np.array([y for line in lines(fvu) for y in line[:, 1]]).reshape(3, 12)
    np.testing.assert_array_equal(on_paper, in_table)
    assert words(fvu)[:3] == ["L0 15.8", "L0 31.5", "L0 63"]
    assert {"clean", "reconstructed", "mean\nablation", "zero\nablation"} <= set(words(loss))
    assert (
        np.nanmax(np.concatenate(lines(recovered))[:, 1]) == numbers.loc[numbers["panel"] == "recovered", "value"].max()
    )


def test_recovered_share_is_not_drawn_where_an_ablation_costs_nothing(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("reconstruction", tables["reconstruction"], smallest_cost=0.05)
    loss = numbers[numbers["panel"] == "loss"].set_index(["series", "sparsity", "step"])["value"]
    shown = numbers[numbers["panel"] == "recovered"]
    for series in ("mean ablation", "zero ablation"):
        cost = loss[series] - loss["clean"]
        steps = shown.loc[shown["series"] == series, ["sparsity", "step"]].itertuples(index=False, name=None)
        assert set(steps) == set(cost.index[cost >= 0.05])
    assert 0 not in set(shown["step"])
    assert any("ablation costs" in text for text in words(figure.axes[2]))


def test_recovered_share_out_of_all_measure_is_marked_at_the_edge(tmp_path: Path) -> None:
    run = made_up.identity("crosscoder", 32)
    losses = made_up.nll(tmp_path, run)
    table = pd.read_csv(losses)
    for step, value in ((64, -5.0), (128, 7.0)):
        table.loc[(table["metric"] == "recovered_mean") & (table["step"] == step), "value"] = value
    table.to_csv(losses, index=False)
    figure, numbers = drawn("reconstruction", [made_up.reconstruction(tmp_path, run), losses])
    assert {-5.0, 7.0} <= set(numbers["value"])
    axis = figure.axes[2]
    on_paper = np.concatenate(lines(axis))[:, 1]
    for marker, edge, extreme in (("v", 0, np.nanmin(on_paper)), ("^", 1, np.nanmax(on_paper))):
        triangles = next(line for line in axis.lines if line.get_marker() == marker)
        assert triangles.get_ydata() == [axis.get_ylim()[edge]] == [extreme]


def test_decoder_norms_draws_the_table(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("decoder_norms", tables["decoder_norms"])
    table = pq.read_table(tables["decoder_norms"][0]).to_pandas().set_index("feature")
    norms = numbers[numbers["panel"] == "norms"]
    order = norms.drop_duplicates("feature")["feature"].tolist()
    assert len(order) == 200
    assert not table.loc[order, "dead"].any()
    assert table.loc[order, "emergence_site"].is_monotonic_increasing
    expected = np.stack(table.loc[order, "normalised_norm"])
    np.testing.assert_array_equal(norms["normalised_norm"].to_numpy().reshape(200, 12), expected)
    on_paper = np.concatenate([image.get_array() for image in figure.axes[1].images], axis=1)
    np.testing.assert_array_equal(on_paper, expected)

    alive = table[~table["dead"]]
    means = numbers[numbers["panel"] == "mean"]
    for name, rows in means.groupby("class"):
        of_class = alive[alive["class"] == name]
        assert set(rows["features"]) == {len(of_class)}
        norms = np.stack(of_class["normalised_norm"])
        np.testing.assert_allclose(rows["normalised_norm"], norms.mean(axis=0))
        errors = norms.std(axis=0, ddof=1) / np.sqrt(len(of_class))
        np.testing.assert_allclose(rows["standard_error"], errors, rtol=1e-9)
        reach = student_quantile(len(of_class) - 1) * errors
        np.testing.assert_allclose(rows[["low", "high"]].T, [norms.mean(axis=0) - reach, norms.mean(axis=0) + reach])
    assert len([band for band in figure.axes[0].collections if isinstance(band, PolyCollection)]) == 2
    sides = [text for text in words(figure.axes[1]) if "features" in text]
    counts = alive["class"].value_counts()
    assert sides == [f"{name}\nfeatures\n{counts[name]:,} of {len(alive):,}" for name in ("initialisation", "emergent")]


def test_initialisation_features_stand_above_emergent_ones(tables: dict[str, list[Path]]) -> None:
    figure, _ = drawn("decoder_norms", tables["decoder_norms"])
    rows = np.concatenate([image.get_array() for image in figure.axes[1].images], axis=1)
    first_emergent = int(np.argmax(rows[:, 0] <= made_up.THRESHOLD))
    assert first_emergent > 20
    assert (rows[:first_emergent, 0] > made_up.THRESHOLD).all()
    assert (rows[first_emergent:, 0] <= made_up.THRESHOLD).all()
    assert rows[:first_emergent, -1].max() < 0.3


def test_sample_is_seeded(tables: dict[str, list[Path]]) -> None:
    first, again, other = (
        set(drawn("decoder_norms", tables["decoder_norms"], features=50, seed=seed)[1]["feature"].dropna())
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_sample_is_what_its_caption_says(tmp_path: Path) -> None:
    for initial, expected in ((0.1, {"initialisation": 20, "emergent": 20}), (0.04, {"emergent": 28})):
        numbers = drawn("decoder_norms", made_up.features_of(tmp_path, initial), features=40)[1]
        sample = numbers[numbers["panel"] == "norms"].drop_duplicates("feature")["class"].value_counts()
        assert sample.sum() == 40
        assert expected.items() <= sample.to_dict().items()
    words_of = import_module("ontogeny.figures.decoder_norms").DESCRIPTION
    assert "equal numbers of both classes, where each has enough" in words_of


@pytest.mark.parametrize(
    ("emergent", "said"),
    [
        ([0.1] * 4 + [0.9] * 8, "Emergent features are the stronger ones from step 8 on."),
        ([0.1, 0.9, 0.1, 0.1] + [0.9] * 8, "Emergent features are the stronger ones from step 8 on."),
        ([0.9] * 12, "Emergent features are the stronger ones from step 0 on."),
        ([0.1] * 4 + [0.9] * 7 + [0.1], ""),
        ([0.1] * 12, ""),
    ],
)
def test_emergent_features_are_the_stronger_ones_from_where_they_stay_so(
    emergent: list[float], said: str, tables: dict[str, list[Path]]
) -> None:
    numbers = drawn("decoder_norms", tables["decoder_norms"])[1]
    mean = numbers["panel"] == "mean"
    numbers.loc[mean & (numbers["class"] == "emergent"), "normalised_norm"] = emergent
    numbers.loc[mean & (numbers["class"] == "initialisation"), "normalised_norm"] = 0.5
    finding = import_module("ontogeny.figures.decoder_norms").caption(numbers).finding
    assert ("stronger" in finding) == bool(said)
    assert said in finding


def test_language_model_draws_the_table(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("language_model", tables["language_model"])
    table = pd.read_csv(tables["language_model"][0])
    heldout = table.loc[table["split"] == "heldout"].sort_values("step")
    assert numbers.loc[numbers["split"] == "heldout", "loss"].tolist() == heldout["loss"].tolist()
    assert numbers.loc[numbers["split"] == "uniform", "loss"].tolist() == [np.log(4096)]
    axis = figure.axes[0]
    markers = np.concatenate(lines(axis))
    assert sorted(markers[:, 1]) == sorted(heldout["loss"])
    assert set(words(axis)) == {"training", "heldout", "uniform\n(ln V)"}
    assert any(set(line.get_ydata()) == {np.log(4096)} for line in axis.lines)


@pytest.mark.parametrize("added", [[], [{"content": "<s>", "id": 3}], [{"content": "a", "id": 0}]])
@pytest.mark.parametrize("vocabulary", [{"a": 0, "b": 1, "c": 2}, [["a", 0.0], ["b", -1.0], ["c", -2.0]]])
def test_vocabulary_counts_every_token_once(added: list[Any], vocabulary: Any, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added}))
    names = {"a", "b", "c"} | {token["content"] for token in added}
    assert import_module("ontogeny.figures.language_model").vocabulary(file) == len(names)
