"""What the figures of two models and of layers say is what their tables hold."""

from pathlib import Path

import axis_tables
import figure_tables as made_up
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from figure_drawing import drawn, words

from ontogeny.errors import UserError
from ontogeny.figures.two_models import owners
from ontogeny.figures.wilson import wilson_interval
from ontogeny.figures.writer import figure_module


def test_features_belong_to_models_by_the_published_bands() -> None:
    delta = pd.DataFrame({"norm_difference": [0.0, 0.099, 0.1, 0.39, 0.4, 0.5, 0.6, 0.61, 0.9, 0.901, 1.0]})
    expected = ["B alone"] * 2 + ["other"] * 2 + ["shared"] * 3 + ["other"] * 2 + ["A alone"] * 2
    assert owners(delta).tolist() == expected


def test_model_diff_counts_and_draws_its_tables(tmp_path: Path) -> None:
    files = axis_tables.two_models(tmp_path)
    table = pd.read_csv(files[0])
    figure, numbers = drawn("model_diff", files, nu=0.3)
    own = numbers[numbers["dictionary"] == "batchtopk"]
    for panel, column in (("relative", "relative_norm"), ("difference", "norm_difference")):
        counts = own[own["panel"] == panel]
        assert counts["value"].sum() == len(table)
        at = counts.set_index(counts["x"].round(2))["value"]
        assert at[0.01] == table[column].between(0, 0.02).sum()
    shared = table[table.relative_norm.between(0.3, 0.7)]
    assert shared.cosine.max() > 1
    cosines = own[own["panel"] == "cosine"]
    assert cosines["value"].sum() == len(shared)
    assert (cosines["total"] == len(shared)).all()
    alone = table[(table.norm_difference > 0.9) | (table.norm_difference < 0.1)]
    both = (alone.nu_error.abs() < 0.3) & (alone.nu_reconstruction.abs() < 0.3)
    assert both.sum() < ((alone.nu_error < 0.3) & (alone.nu_reconstruction < 0.3)).sum()
    below = own[own["panel"] == "threshold"].set_index("x")["value"]
    assert 0 < below[0.3] == both.sum() < len(alone)
    assert below.is_monotonic_increasing
    finding = figure_module("model_diff").caption(numbers).finding
    a, b = (table.norm_difference > 0.9).sum(), (table.norm_difference < 0.1).sum()
    of_a, of_b = (both & (alone.norm_difference > 0.9)).sum(), (both & (alone.norm_difference < 0.1)).sum()
    assert (
        f"batchtopk: of 600 live features, {a} are of base alone and {b} of tuned alone by Delta, of which {of_a} and "
        f"{of_b} have both nu within 0.3 of 0; {len(shared)} are shared by r; loss recovered 0.96 (base) and 0.92 (tuned)"
    ) in finding
    assert finding.startswith("A is base and B is tuned.")
    assert [axis.get_xlabel() for axis in figure.axes[:2]] == ["Relative norm $r$", "Relative norm Δ"]


def test_the_frame_of_latent_scaling_holds_the_features_of_one_model_alone(tmp_path: Path) -> None:
    files = axis_tables.two_models(tmp_path, "l1")
    table = pd.read_csv(files[0])
    alone = (table.norm_difference > 0.9) | (table.norm_difference < 0.1)
    shared = table.index[table.norm_difference.between(0.4, 0.6)]
    table.loc[alone, "nu_error"] = np.linspace(-0.3, 0.7, alone.sum())
    table.loc[shared[:20], "nu_error"] = -40
    table.to_csv(files[0], index=False)
    axis = drawn("model_diff", files)[0].axes[3]
    assert axis.get_xlim() == pytest.approx((-0.35, 1.15))
    assert axis.get_ylim() == pytest.approx((-0.5, 1.15)), "the made-up nu of -0.8 stand on the edge"
    triangles = [line.get_xydata() for line in axis.lines if line.get_marker() in ("v", "^")]
    x, y = np.concatenate(triangles).T
    assert sorted(x) == pytest.approx(np.linspace(-0.3, 0.7, alone.sum()))
    assert (y == -0.5).sum() == (table[alone].nu_reconstruction == -0.8).sum() > 0
    (grey,) = (line for line in axis.lines if line.get_marker() == ".")
    assert (grey.get_xdata() == -40).sum() == 20, "outside the frame, not on it"
    assert grey.get_clip_on()


def test_model_diff_says_what_its_marks_are(tmp_path: Path) -> None:
    figure, _ = drawn("model_diff", axis_tables.two_models(tmp_path))
    (dictionaries,) = figure.legends
    names = [text.get_text() for text in dictionaries.get_texts()]
    assert names == ["batchtopk", "l1", "l1 shared"]
    curves = [line for line in figure.axes[4].lines if line.get_linestyle() == "-"]
    assert [line.get_color() for line in dictionaries.get_lines()] == [line.get_color() for line in curves]
    keys = {}
    for axis in figure.axes[3:]:
        legend = axis.get_legend()
        assert legend is not None
        keys |= dict(zip([text.get_text() for text in legend.get_texts()], legend.get_lines(), strict=True))
    assert keys["tuned alone"].get_marker() == "^"
    assert keys["base alone"].get_marker() == "v"
    assert keys["shared (batchtopk)"].get_marker() == "."
    assert keys["how many there are"].get_linestyle() == ":"
    assert keys["mean ablation"].get_markerfacecolor() != "white"
    assert keys["zero ablation"].get_markerfacecolor() == "white"


def test_designated_features_are_in_no_histogram_of_norms(tmp_path: Path) -> None:
    files = axis_tables.two_models(tmp_path, "l1")
    table = pd.read_csv(files[0])
    table.assign(designated=table.feature < 100).to_csv(files[0], index=False)
    _, numbers = drawn("model_diff", files)
    assert numbers.loc[numbers["panel"] == "relative", "value"].sum() == len(table) - 100
    counts = numbers[numbers["panel"] == "counts"].set_index("series")
    assert counts["value"]["designated"] == 100
    assert counts["total"]["designated"] == len(table)
    low, high = wilson_interval(counts["value"]["designated"], len(table))
    assert counts["low"]["designated"] == pytest.approx(low * len(table))
    assert counts["high"]["designated"] == pytest.approx(high * len(table))
    assert numbers.loc[numbers["total"].isna(), ["low", "high"]].isna().all(axis=None)


def test_runs_over_other_models_are_refused(tmp_path: Path) -> None:
    files = axis_tables.two_models(tmp_path)
    pd.read_csv(files[0]).assign(model_b="other").to_csv(files[0], index=False)
    with pytest.raises(UserError, match="runs are over 2 pairs of models"):
        drawn("model_diff", files)
    with pytest.raises(UserError, match=r"none is a model_diff\.csv"):
        drawn("model_diff", [file for file in files if file.stem != "model_diff"])


def test_layers_counts_what_features_span(tmp_path: Path) -> None:
    files = axis_tables.layers(tmp_path)
    table = pq.read_table(files[0]).to_pandas()
    norms_LS = np.stack(table.loc[~table.dead, "normalised_norm"])
    _, numbers = drawn("layers", files)
    parts = dict(list(numbers.groupby("panel")))
    for row in parts["span"].itertuples():
        assert row.value == ((norms_LS > made_up.THRESHOLD).sum(1) == row.x).sum()
    for site, row in zip(made_up.LAYERS, parts["peak"].itertuples(), strict=False):
        assert row.hook == site.hook
        of_peak = norms_LS[norms_LS.argmax(1) == made_up.LAYERS.index(site)]
        assert row.value == len(of_peak)
        profile = parts["profile"][parts["profile"]["other_hook"] == site.hook]
        assert profile["value"].to_numpy() == pytest.approx(of_peak.mean(0))
        assert set(profile["total"]) == {len(of_peak)}
        low, high = wilson_interval(len(of_peak), len(norms_LS))
        assert (row.low, row.high) == pytest.approx((low * len(norms_LS), high * len(norms_LS)))


def test_layers_sets_the_cost_of_a_patched_layer_beside_that_of_its_sae(tmp_path: Path) -> None:
    figure, numbers = drawn("layers", axis_tables.layers(tmp_path, ks=(16, 32)))
    cost = numbers[numbers["panel"] == "cost"]
    of_all = cost[cost["kind"] == "crosscoder"].set_index(["point", "hook"])["value"]
    assert of_all["latents2048-k16", made_up.LAYERS[3].hook] == pytest.approx(4 * 2 / 16)
    of_one = cost[cost["kind"] == "SAE of the layer"]
    assert of_one.groupby("hook").size().tolist() == [2] * 6
    assert of_one["value"].tolist() == pytest.approx([1 / 16, 1 / 32] * 6)
    titles = [text.get_text() for axis in figure.axes for text in axis.texts if text.get_text().startswith("block")]
    assert titles == [f"block {block}" for block in range(6)]


def test_layers_names_errors_by_kind_and_l0(tmp_path: Path) -> None:
    figure, numbers = drawn("layers", axis_tables.layers(tmp_path, ks=(16, 32)))
    axis, errors = figure.axes[3], numbers[numbers["panel"] == "fvu"]
    names = ["crosscoder\nL0 16", "crosscoder\nL0 32", "SAEs, L0\n7.9 to 8.7", "SAEs, L0\n16 to 17"]
    assert words(axis)[:-1] == names
    assert [line.get_linestyle() for line in axis.lines] == ["-", "--", "-", "--"]
    of_one = [errors[(errors["sparsity"] == k) & (errors["kind"] == "SAE of the layer")]["value"] for k in (8, 16)]
    for line, values in zip(axis.lines[2:], of_one, strict=True):
        assert line.get_ydata() == pytest.approx(values.tolist())


def test_saes_of_one_layer_stand_side_by_side_under_one_name(tmp_path: Path) -> None:
    figure, numbers = drawn("layers", axis_tables.layers(tmp_path, saes=1))
    axis, rows = figure.axes[3], numbers[(numbers["panel"] == "fvu") & (numbers["kind"] == "SAE of the layer")]
    assert words(axis)[3:-1] == ["SAEs, L0\n7.9, 16, 32"]
    points = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata()[0] for line in points] == rows.sort_values("x")["value"].tolist()
    places = [line.get_xdata()[0] for line in points]
    assert np.mean(places) == pytest.approx(0)
    assert (np.diff(places) > 0.1).all()
    assert max(places) < 0.5
    (name,) = (text for text in axis.texts if text.get_text().startswith("SAEs"))
    assert name.xy == (places[-1], points[-1].get_ydata()[0])
    assert name.arrow_patch is not None


def test_layers_without_losses_are_refused(tmp_path: Path) -> None:
    files = [file for file in axis_tables.layers(tmp_path) if not file.stem.startswith("nll")]
    with pytest.raises(UserError, match="no run has losses, FVU and L0"):
        drawn("layers", files)


def test_losses_that_coincide_at_sites_without_a_line_are_told_apart(tmp_path: Path) -> None:
    run = made_up.identity("crosscoder", 32)
    files = [made_up.reconstruction(tmp_path, run, axis_tables.MODELS)]
    figure, numbers = drawn("reconstruction", files + axis_tables.losses(tmp_path, run, axis_tables.MODELS, 0.0))
    losses = numbers[numbers["panel"] == "loss"].set_index(["series", "model"])["value"]
    assert losses["clean", "base"] == losses["reconstructed", "base"]
    looks = {}
    for line in figure.axes[1].lines:
        (y,) = line.get_ydata()
        looks.setdefault(y, set()).add((line.get_marker(), line.get_markerfacecolor() == "white"))
    assert looks[losses["clean", "base"]] == {("_", False), ("o", False)}
    assert looks[losses["mean ablation", "base"]] == {("o", False)}
    assert looks[losses["zero ablation", "base"]] == {("o", True)}


def test_an_sae_at_one_of_the_layers_is_named_by_it_in_pareto(tmp_path: Path) -> None:
    last = made_up.LAYERS[-1:]
    files = [
        *made_up.reconstruction_and_nll(tmp_path, made_up.LAYERS)[:1],
        *made_up.reconstruction_and_nll(tmp_path, last, "sae")[:1],
    ]
    figure, numbers = drawn("pareto", files)
    assert words(figure.axes[0]) == ["crosscoder\nall 12 sites", "crosscoder\nat block 11", "SAE\nat block 11"]
    assert numbers["place"].tolist() == ["", "block 11", "block 11"]
