"""Error and losses of a dictionary over one site are drawn against L0."""

from pathlib import Path

import figure_tables as made_up
import numpy as np
import pandas as pd
from figure_drawing import drawn, words

from ontogeny.figures.reconstruction import caption


def tables_at_one_site(folder: Path) -> list[Path]:
    """Two sizes, three sparsities and two seeds of an SAE on the last checkpoint."""
    runs = [made_up.identity("sae", k, seed, n) for k in (16, 32, 64) for seed in (0, 1) for n in (512, 2048)]
    return [
        file
        for run in runs
        for file in (
            made_up.reconstruction(folder, run, made_up.LAST, run.latents / 1e5, 0.002 * run.seed),
            made_up.nll(folder, run, made_up.LAST),
        )
    ]


def test_lines_over_l0_are_means_of_the_tables(tmp_path: Path) -> None:
    files = tables_at_one_site(tmp_path)
    figure, numbers = drawn("reconstruction", files)
    fvu, loss, recovered = figure.axes
    table = pd.concat(map(pd.read_csv, files))
    pooled = table[(table["metric"] == "l0") & table["model"].isna()].groupby(["latents", "sparsity"])["value"].mean()
    at_site = table[(table["metric"] == "fvu") & table["model"].notna()].groupby(["latents", "sparsity"])["value"]
    for line, latents in zip(fvu.lines, (512, 2048), strict=True):
        np.testing.assert_allclose(
            line.get_xydata(), np.column_stack([pooled[latents], at_site.mean()[latents]]), rtol=1e-12
        )
    bars = fvu.collections[0].get_segments()
    np.testing.assert_allclose(
        [sorted(bar[:, 1]) for bar in bars],
        np.column_stack([at_site.min()[512], at_site.max()[512]]),
        rtol=1e-12,
    )
    clean = table.loc[table["metric"] == "nll_clean", "value"].iloc[0]
    assert any(np.allclose(line.get_ydata(), clean) for line in loss.lines)
    assert words(fvu)[:2] == ["512 latents", "2,048 latents"]
    assert words(loss).count("reconstructed") == 1
    assert {"vs zero\nablation", "vs mean\nablation"} <= set(words(recovered))
    assert numbers["seeds"].eq(2).all()


def test_one_run_is_a_point_between_the_losses_that_frame_it(tmp_path: Path) -> None:
    figure, numbers = drawn("reconstruction", made_up.reconstruction_and_nll(tmp_path, made_up.LAST, "sae"))
    losses = numbers[numbers["panel"] == "loss"].set_index("series")["value"]
    levels = sorted(float(line.get_ydata()[0]) for line in figure.axes[1].lines)
    np.testing.assert_allclose(levels, sorted(losses))
    assert figure.axes[1].get_ylim()[0] < losses["clean"] < losses["zero ablation"] < figure.axes[1].get_ylim()[1]
    assert figure.axes[0].get_xlabel() == "L0 (active features per token)"


def test_the_caption_is_of_the_lines_over_l0(tmp_path: Path) -> None:
    _, numbers = drawn("reconstruction", tables_at_one_site(tmp_path))
    said = caption(numbers)
    assert said.title == "Reconstruction at one site"
    assert "One shade per dictionary size" in said.description
    for absent in ("triangles", "grey", "bands", "Training steps"):
        assert absent not in said.description
