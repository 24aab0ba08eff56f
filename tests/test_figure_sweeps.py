"""The figures of sweeps and densities draw the numbers of their tables."""

from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd
import pytest
from figure_drawing import drawn, words
from matplotlib.axes import Axes
from sweep_tables import COEFFICIENTS, SIZES, density, superposition, sweep

from ontogeny.densities import EDGES
from ontogeny.errors import UserError
from ontogeny.figures.density import caption
from ontogeny.figures.writer import figure_module


def test_a_sweep_has_a_column_a_dictionary_and_a_line_a_size(tmp_path: Path) -> None:
    files = sweep(tmp_path, layers=3)
    figure, numbers = drawn("sweep", files)
    assert len(numbers) == len(files) == 18
    assert [axis.get_title() for axis in figure.axes[::2]] == ["block 0", "block 1", "block 2"]
    for column, layer in enumerate(range(3)):
        for row, metric in enumerate(("fvu", "dead")):
            drawn_lines = figure.axes[2 * column + row].lines
            for line, size in zip(drawn_lines, (128, 512), strict=True):
                expected = []
                for k in (4, 16, 64):
                    table = pd.read_csv(tmp_path / f"metrics/block-{layer}/latents{size}-k{k}-seed0/reconstruction.csv")
                    pooled = table[table.model.isna()].set_index("metric").value
                    expected.append((pooled.l0, pooled[metric]))
                np.testing.assert_allclose(line.get_xydata(), expected)
    assert len({axis.get_ylim() for axis in figure.axes[::2]}) == 1
    assert [words(axis) for axis in figure.axes[-2:]] == [["128 latents", "512 latents"]] * 2


def test_densities_are_drawn_as_they_are_counted(tmp_path: Path) -> None:
    file = density(tmp_path)
    figure, numbers = drawn("density", [file])
    table = pd.read_csv(file)
    assert len(figure.axes) == 2 + 4
    _the_bar_has_the_shares_of_the_map(*figure.axes[:2], table)
    key, *others = (axis.get_legend() for axis in figure.axes[2:])
    assert [text.get_text() for text in key.get_texts()] == ["before", "after"]
    assert others == [None] * 3
    assert len(numbers) == len(table)
    for axis, step in zip(figure.axes[2:], (96, 192, 288, 384), strict=True):
        assert axis.get_title() == f"step {step:,}"
        before, after = (table[(table.step == step) & (table.moment == moment)] for moment in ("before", "after"))
        for patch, rows in zip(axis.patches, (before, after), strict=False):
            values = patch.get_data().values
            assert values[0] == rows[rows.low.isna()].latents.iloc[0] / 4096
            assert values.sum() == pytest.approx(1)
            filled = rows[rows.latents > 0].dropna()
            np.testing.assert_allclose(values[values > 0][1:], filled.latents / 4096)
            edges = patch.get_data().edges
            np.testing.assert_allclose(edges[:-1][values > 0][1:], filled.low)
            assert edges[-1] == EDGES[-1]
    first, last = (table[table.low.isna() & (table.step == step)].latents.iloc[0] / 40.96 for step in (96, 512))
    assert f"{first:.3g} % before" in caption(numbers).finding
    assert f"{last:.3g} % after step 512" in caption(numbers).finding


def _the_bar_has_the_shares_of_the_map(axis: Axes, bar: Axes, table: pd.DataFrame) -> None:
    """The bar says shares themselves, from none to the largest, and stands as the shades do: by the square root."""
    (cells,) = axis.collections
    assert cells.get_array().max() == table["latents"].max() / 4096 == bar.get_xlim()[1]
    ticks = bar.get_xticks()
    assert [float(label.get_text()) for label in bar.get_xticklabels()] == pytest.approx(ticks)
    on_paper = bar.transAxes.inverted().transform(bar.transData.transform([(tick, 0) for tick in ticks]))[:, 0]
    np.testing.assert_allclose(on_paper, np.sqrt(ticks / bar.get_xlim()[1]), atol=1e-6)
    np.testing.assert_allclose(cells.norm(ticks), on_paper, atol=1e-6)


def test_densities_without_resampling_are_one_panel(tmp_path: Path) -> None:
    figure, _ = drawn("density", [density(tmp_path, resamplings=0)])
    assert len(figure.axes) == 2, "the map and its scale of shades"


def test_a_run_without_histograms_is_one_line(tmp_path: Path) -> None:
    file = density(tmp_path)
    file.write_text("step,moment,low,high,latents,rows\n")
    with pytest.raises(UserError, match=r"density\.csv: the table has no rows"):
        drawn("density", [file])
    with pytest.raises(UserError, match=r"there are 2; expected the density\.csv of one run"):
        drawn("density", [file, file])


def test_superposition_shows_the_sweep_and_marks_the_best_coefficients(tmp_path: Path) -> None:
    table = superposition(tmp_path, seeds=(0, 1))
    figure, numbers = drawn("superposition", [table])
    metrics = pd.read_csv(table)
    panels = figure.axes[::2]
    names = ("mmcs_planted", "mmcs_larger", "recovered_features", "dead", "fvu", "l0")
    for axis, metric in zip(panels, names, strict=True):
        means = metrics[metrics["metric"] == metric].groupby(["latents", "sparsity"])["value"].mean().unstack()
        cells = axis.collections[0].get_array()
        rows = len(SIZES) - (metric == "mmcs_larger")
        np.testing.assert_allclose(cells[:rows], np.maximum(means, 0.1) if metric == "l0" else means)
        assert cells[rows:].mask.all(), "the largest dictionary has no larger one"
    best = COEFFICIENTS.index(1.0) + 0.5
    for axis in panels[:3]:
        marks = {
            line.get_marker(): line.get_xydata().tolist() for line in axis.lines if line.get_marker() in ("o", "^")
        }
        assert marks == {"o": [[best, y + 0.5] for y in range(7)], "^": [[best, y + 0.5] for y in range(6)]}
    assert not any(line.get_marker() in ("o", "^") for axis in panels[3:] for line in axis.lines)
    (height,) = {float(line.get_ydata()[0]) for axis in panels for line in axis.lines if line.get_linestyle() == "--"}
    assert height == SIZES.index(64) + 0.5
    assert numbers["best_planted"].sum() == 7
    assert numbers["best_larger"].sum() == 6
    assert numbers.loc[numbers["best_larger"], "sparsity"].eq(1).all()
    finding = figure_module("superposition").caption(numbers).finding
    assert "the SAE finds at most 94%" in finding
    assert "for 6 of 6 sizes; to choose by it costs 0 of that MMCS" in finding


def test_a_sweep_of_seeds_draws_means_and_lists_the_extremes(tmp_path: Path) -> None:
    runs = [made_up.identity("sae", k, seed) for k in (16, 32) for seed in (0, 1, 2)]
    files = [made_up.reconstruction(tmp_path, run, made_up.LAST, shift=-0.01 * run.seed) for run in runs]
    numbers = drawn("sweep", files)[1].set_index("sparsity")
    assert numbers["seeds"].tolist() == [3, 3]
    np.testing.assert_allclose(numbers["fvu"] - numbers["fvu_low"], 0.01)
    np.testing.assert_allclose(numbers["fvu_high"] - numbers["fvu"], 0.01)
    assert (numbers["dead_low"] == numbers["dead_high"]).all()
