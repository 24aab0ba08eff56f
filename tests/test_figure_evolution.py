"""The figures of evolution draw what was measured."""

from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from default_tables import default_tables
from figure_drawing import drawn, lines, words
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from ontogeny.colours import class_colours
from ontogeny.evaluation.emergence import CLASSES
from ontogeny.figures.student import student_quantile
from ontogeny.figures.wilson import wilson_interval


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Tables of the default study, by figure."""
    return default_tables(tmp_path_factory.mktemp("results"))


def titled(figure: Figure, title: str) -> Axes:
    """Find the panel that bears a title."""
    (axis,) = [axis for axis in figure.axes if axis.get_title().startswith(title)]
    return axis


def labelled(figure: Figure, label: str) -> Axes:
    """Find the panel with a label at its left side."""
    (axis,) = [axis for axis in figure.axes if axis.get_ylabel() == label]
    return axis


def test_overview_draws_the_sample_of_decoder_norms(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("evolution_overview", tables["evolution_overview"])
    _, alone = drawn("decoder_norms", tables["decoder_norms"])
    sample = alone[alone["panel"] == "norms"]
    norms = numbers[numbers["panel"] == "norms"]
    assert norms["feature"].tolist() == sample["feature"].tolist()
    assert norms["value"].tolist() == sample["normalised_norm"].tolist()
    on_paper = np.concatenate([image.get_array() for image in figure.axes[0].images], axis=1)
    np.testing.assert_array_equal(on_paper, norms["value"].to_numpy(dtype=float).reshape(200, 12))
    sides = words(figure.axes[0])
    table = pq.read_table(tables["decoder_norms"][0]).to_pandas()
    counts = table.loc[~table["dead"], "class"].value_counts()
    assert sides == [
        f"{name} features\n{counts[name]:,} of {counts.sum():,}" for name in ("initialisation", "emergent")
    ]


def test_overview_draws_the_cosine_of_every_pair_once_on_either_side(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("evolution_overview", tables["evolution_overview"])
    rotation = pd.read_csv(tables["evolution_overview"][1])
    cosines = rotation[rotation["metric"] == "cosine"].set_index(["class", "step", "other_step"])["value"]
    place = {step: number + (number > 0) for number, step in enumerate(made_up.STEPS)}
    for name in ("all", "initialisation", "emergent"):
        (mesh,) = [part for part in titled(figure, name).collections if isinstance(part, QuadMesh)]
        cells = np.ma.filled(mesh.get_array(), np.nan).reshape(13, 13)
        assert np.isnan(cells[1]).all(), "nothing between step 0 and the others"
        assert np.isnan(cells[:, 1]).all()
        for (here, there), value in cosines[name].items():
            assert cells[place[here], place[there]] == cells[place[there], place[here]] == value
        assert (np.delete(np.diag(cells), 1) == 1).all()
        shown = numbers[(numbers["panel"] == "cosine") & (numbers["class"] == name)]
        reach = [student_quantile(int(count) - 1) for count in shown["features"]] * shown["standard_error"]
        np.testing.assert_allclose(shown["high"] - shown["value"], reach, atol=1e-12)
        np.testing.assert_allclose(shown["value"] - shown["low"], reach, atol=1e-12)
        low, high = mesh.get_clim()
        assert low == pytest.approx(np.floor(10 * cosines.min()) / 10)
        assert high == 1


def test_overview_says_at_how_many_checkpoints_and_from_which_step(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("evolution_overview", tables["evolution_overview"])
    axis = labelled(figure, "Share of class")
    table = pq.read_table(tables["decoder_norms"][0]).to_pandas()
    alive = table[~table["dead"]]
    steps = {patch.get_edgecolor(): patch for patch in axis.patches if isinstance(patch, StepPatch)}
    assert len(steps) == 2
    by_class = numbers[numbers["panel"] == "persistence"].groupby("class")
    for name, patch in zip(("initialisation", "emergent"), steps.values(), strict=True):
        above = (alive.loc[alive["class"] == name, "persistence"] * 12).round().astype(int)
        counts = above.value_counts().reindex(range(1, 13), fill_value=0)
        assert by_class.get_group(name)["features"].tolist() == counts.tolist()
        np.testing.assert_allclose(patch.get_data().values, counts / counts.sum())
        assert f"{name}\n{len(above):,} features" in words(axis)
        low, high = wilson_interval(counts, len(above))
        np.testing.assert_allclose(by_class.get_group(name)[["low", "high"]], np.stack([low, high], 1))
    bars = [bar.get_segments() for bar in axis.collections if isinstance(bar, LineCollection)]
    on_paper = np.array([[segment[0, 1], segment[1, 1]] for segments in bars for segment in segments])
    drawn_here = numbers[numbers["panel"] == "persistence"].sort_values(
        ["class", "sites_above"], ascending=[False, True]
    )
    np.testing.assert_array_equal(on_paper, drawn_here[["low", "high"]])
    assert axis.get_xlabel() == "Checkpoints above τ = 0.5, of 12"
    (above,) = [other for other in figure.axes if other.get_xlabel() == "As many as from this step to the last"]
    named = dict(zip(above.get_xticks(), (label.get_text() for label in above.get_xticklabels()), strict=True))
    assert named[1] == "1k"
    assert named[12] == "0"
    assert named[4] == "128", "from step 128 to step 1,000 there are four checkpoints"


def test_overview_of_other_axes_speaks_of_sites(tmp_path: Path) -> None:
    figure, _ = drawn(
        "evolution_overview", made_up.overview_of(tmp_path, *made_up.features_of(tmp_path, sites=made_up.LAYERS))
    )
    assert labelled(figure, "Share of class").get_xlabel() == "Sites above τ = 0.5, of 12"
    assert not [axis for axis in figure.axes if axis.get_xlabel().startswith("As many")]
    assert [label.get_text() for label in titled(figure, "all").get_yticklabels()][:2] == ["block 0", "block 2"]


def test_overview_of_one_class_has_one_map(tmp_path: Path) -> None:
    figure, numbers = drawn(
        "evolution_overview", made_up.overview_of(tmp_path, *made_up.features_of(tmp_path, initial=0))
    )
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["emergent (285)"]
    assert set(numbers.loc[numbers["panel"] == "persistence", "class"]) == {"emergent"}


def test_classes_are_stacked_to_all_features_that_fire(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("feature_classes", tables["feature_classes"])
    table = pq.read_table(tables["decoder_norms"][0]).to_pandas()
    norms_LS = np.stack(table.loc[~table["dead"], "normalised_norm"])
    counts = numbers[numbers["panel"] == "counts"].pivot(index="threshold", columns="class", values="value")
    assert (counts.sum(axis=1) == len(norms_LS)).all()
    assert counts.index.min() == 0.1
    assert counts.index.max() == 0.9
    for tau, row in counts.iterrows():
        first, last = norms_LS[:, 0] > tau, norms_LS[:, -1] > tau
        assert row[["always-on", "returning", "fading"]].sum() == first.sum()
        assert row["fading"] == (first & ~last).sum()
        assert row["transient"] == (~first & ~last).sum()
        assert row["always-on"] == (norms_LS > tau).all(axis=1).sum()
    rows = numbers[numbers["panel"] == "counts"]
    shares = np.stack(wilson_interval(rows["value"], len(norms_LS)), 1)
    np.testing.assert_allclose(rows[["low", "high"]], shares * len(norms_LS))
    axis, colours = figure.axes[0], class_colours()
    areas = [part for part in axis.collections if isinstance(part, PolyCollection)]
    below = 0
    for name, area in zip([name for name in CLASSES if counts[name].any()], areas, strict=True):
        corners = area.get_paths()[0].vertices
        below += counts.loc[0.5, name]
        assert corners[np.isclose(corners[:, 0], 0.5), 1].max() == below, name
        assert np.allclose(area.get_facecolor()[0], (*plain(colours[name]), 1))
    assert "τ = 0.5" in words(axis)


def plain(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))


def test_classes_have_the_mean_norms_of_their_features(tables: dict[str, list[Path]]) -> None:
    figure, numbers = drawn("feature_classes", tables["feature_classes"])
    table = pq.read_table(tables["decoder_norms"][0]).to_pandas()
    norms_LS = np.stack(table.loc[~table["dead"], "normalised_norm"])
    transient = norms_LS[(norms_LS[:, [0, -1]] <= 0.5).all(axis=1)]
    rows = numbers[(numbers["panel"] == "norms") & (numbers["class"] == "transient")]
    assert set(rows["features"]) == {len(transient)}
    np.testing.assert_allclose(rows["value"].to_numpy(), transient.mean(axis=0))
    errors = transient.std(axis=0, ddof=1) / np.sqrt(len(transient))
    np.testing.assert_allclose(rows["standard_error"].to_numpy(dtype=float), errors, rtol=1e-9)
    np.testing.assert_allclose(rows["high"] - rows["value"], student_quantile(len(transient) - 1) * errors)
    axis = labelled(figure, "Mean normalised norm")
    on_paper = np.array([y for line in lines(axis) for y in line[:, 1]])
    drawn_norms = numbers[numbers["panel"] == "norms"]["value"].to_numpy()
    assert sorted(on_paper) == sorted(drawn_norms)
    assert f"transient ({len(transient):,})" in words(axis)


def test_the_mean_of_few_features_has_an_error_and_no_interval(tmp_path: Path) -> None:
    norms_LS = np.concatenate([np.tile([1.0, *[0.2] * 11], (40, 1)), [[0.1, *[0.2] * 10, 1.0], [0.3] + [1.0] * 11]])
    norms_LS[:40, 1:] += np.linspace(0, 0.1, 40)[:, None]
    figure, numbers = drawn(
        "feature_classes", made_up.classes_of(tmp_path, made_up.features(tmp_path, norms_LS, dead=0))
    )
    norms = numbers[numbers["panel"] == "norms"].groupby("class")
    assert norms["features"].first().to_dict() == {"fading": 40, "lasting": 2}
    lasting = norms.get_group("lasting").iloc[0]
    # Norms of 0.1 and 0.3: the mean is 0.2, its error 0.1.
    assert lasting[["value", "standard_error"]].tolist() == pytest.approx([0.2, 0.1])
    assert lasting[["low", "high"]].isna().all()
    axis = labelled(figure, "Mean normalised norm")
    assert len([band for band in axis.collections if isinstance(band, PolyCollection)]) == 1
