"""Figures: what is drawn is what was measured, and the files are fit for a paper."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import figure_tables as made_up
import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from docutils.core import publish_parts
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ontogeny.config.figures import FigureSettings, FigureStyle
from ontogeny.errors import UserError
from ontogeny.figures.axes import site_axis, site_names, step_scale
from ontogeny.figures.style import paper, shades, spread
from ontogeny.figures.writer import figure_kinds, figure_module, write_figure
from ontogeny.sites import Site

ROOT = Path(__file__).parents[1]
FIGURES = tuple(figure_kinds())
LAYERS = tuple(Site("neox", 1000, f"blocks.{block}.hook_resid_post") for block in range(12))
LAST = made_up.SITES[-1:]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Tables of the default study, by figure."""
    return made_up.default_tables(tmp_path_factory.mktemp("results"))


def drawn(name: str, files: list[Path], **settings: Any) -> tuple[Figure, pd.DataFrame]:
    with paper(FigureStyle()):
        figure, numbers = figure_module(name).draw(files, figure_kinds()[name](**settings), FigureStyle())
        figure.draw_without_rendering()
    return figure, numbers


def lines(axis: Axes) -> list[np.ndarray]:
    """Points of every line with markers, as arrays (n, 2)."""
    return [line.get_xydata() for line in axis.lines if line.get_marker() in ("o", "s")]


def words(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def visible(figure: Figure) -> list[Text]:
    """Everything written in a figure, without the labels of ticks outside the limits."""
    found = []
    for axis in figure.axes:
        found += [*axis.texts, axis.xaxis.label, axis.yaxis.label]
        for ticks, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            shown = [tick for tick in ticks.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
            found += [tick.label1 for tick in shown if tick.label1.get_visible()]
            found += [tick.label2 for tick in shown if tick.label2.get_visible()]
    return [text for text in found if text.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_files(name: str, tables: dict[str, list[Path]], tmp_path: Path) -> None:
    study = made_up.study(tmp_path)
    settings = figure_kinds()[name]()
    numbers = write_figure(name, tables[name], settings, FigureStyle(), tmp_path / name, study)

    pdf = (tmp_path / f"{name}.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf
    box = [float(number) for number in re.search(rb"/MediaBox \[ ([\d. ]+) \]", pdf).group(1).split()]
    assert box[2:] == pytest.approx([settings.width / 25.4 * 72, settings.height / 25.4 * 72], abs=0.01)

    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.size == tuple(int(length / 25.4 * 300) for length in (settings.width, settings.height))
        assert image.info["commit"] == "deadbeef0123"
        assert image.info["study"] == "default"
        assert image.info["Finding"] == figure_module(name).caption(numbers).finding
    again = pd.read_csv(tmp_path / f"{name}.csv")
    pd.testing.assert_frame_equal(again, numbers.replace("", np.nan), check_dtype=False, check_exact=True)


@pytest.mark.parametrize("name", FIGURES)
def test_same_tables_same_bytes(name: str, tables: dict[str, list[Path]], tmp_path: Path) -> None:
    study = made_up.study(tmp_path)
    write_figure(name, tables[name], figure_kinds()[name](), FigureStyle(), tmp_path / "here" / name, study)
    command = [sys.executable, str(ROOT / "scripts" / "figure.py"), "--figure", name, "--study", str(study)]
    command += ["--tables", *map(str, tables[name]), "--out", str(tmp_path / "there" / name)]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland", "MPLBACKEND": "svg"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    for suffix in ("pdf", "png", "csv"):
        here, there = (tmp_path / place / f"{name}.{suffix}" for place in ("here", "there"))
        assert here.read_bytes() == there.read_bytes(), suffix


def test_users_own_matplotlib_settings_change_nothing(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    write_figure("pareto", tables["pareto"], FigureSettings(), FigureStyle(), tmp_path / "plain", None)
    with mpl.rc_context({"lines.linewidth": 9, "axes.facecolor": "pink", "font.family": "serif"}):
        write_figure("pareto", tables["pareto"], FigureSettings(), FigureStyle(), tmp_path / "own", None)
        assert mpl.rcParams["lines.linewidth"] == 9
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "own.png").read_bytes()


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
    in_table = numbers[["l0", "explained_variance"]].to_numpy().reshape(3, 3, 2)
    np.testing.assert_array_equal(lines(axis), in_table)
    filled = [line.get_markerfacecolor() != "white" for line in axis.lines if line.get_marker() in ("o", "s")]
    assert filled == [True, False, True]
    assert words(axis) == ["crosscoder\nall 12 sites", "crosscoder\nat step 1,000", "SAE\nat step 1,000"]


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


def test_recovered_share_far_below_zero_is_marked_at_the_edge(tmp_path: Path) -> None:
    run = made_up.identity("crosscoder", 32)
    losses = made_up.nll(tmp_path, run)
    table = pd.read_csv(losses)
    table.loc[(table["metric"] == "recovered_mean") & (table["step"] == 64), "value"] = -5.0
    table.to_csv(losses, index=False)
    figure, numbers = drawn("reconstruction", [made_up.reconstruction(tmp_path, run), losses])
    assert numbers["value"].min() == -5.0
    axis = figure.axes[2]
    triangles = next(line for line in axis.lines if line.get_marker() == "v")
    assert triangles.get_ydata() == [axis.get_ylim()[0]]


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
        np.testing.assert_allclose(rows["normalised_norm"], np.stack(of_class["normalised_norm"]).mean(axis=0))
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


def both(folder: Path, sites: tuple[Site, ...], dictionary: str = "crosscoder") -> list[Path]:
    run = made_up.identity(dictionary, 32)
    return [made_up.reconstruction(folder, run, sites), made_up.nll(folder, run, sites)]


def sizes_and_seeds(folder: Path) -> list[Path]:
    runs = [made_up.identity("crosscoder", k, seed, n) for k in (16, 64) for seed in (0, 1) for n in (2048, 24576)]
    return [made_up.reconstruction(folder, run, shift=0.002 * run.seed) for run in runs]


def norms(folder: Path, initial: float = 0.3, sites: tuple[Site, ...] = made_up.SITES) -> list[Path]:
    return [made_up.features(folder, made_up.norms(300, initial=initial), sites=sites)]


TWO_MODELS = tuple(Site(model, step, made_up.HOOK) for model in ("neox", "gpt") for step in made_up.STEPS)
VARIANTS: dict[str, tuple[str, Callable[[Path], list[Path]], dict[str, Any]]] = {
    "sizes and seeds": ("pareto", lambda at: [*sizes_and_seeds(at), both(at, LAST, "sae")[0]], {}),
    "one run": ("pareto", lambda at: both(at, made_up.SITES)[:1], {}),
    "one site, one run": ("pareto", lambda at: both(at, LAST, "sae")[:1], {}),
    "error of sizes and seeds": ("reconstruction", sizes_and_seeds, {"width": 88}),
    "one site": ("reconstruction", lambda at: both(at, LAST, "sae"), {}),
    "layers": ("reconstruction", lambda at: both(at, LAYERS), {}),
    "models": ("reconstruction", lambda at: both(at, TWO_MODELS), {}),
    "norms over layers": ("decoder_norms", lambda at: norms(at, sites=LAYERS), {}),
    "one class": ("decoder_norms", lambda at: norms(at, initial=0), {"features": 1000}),
    "few features of a class": ("decoder_norms", lambda at: norms(at, initial=0.01), {}),
    "two models": ("language_model", lambda at: [made_up.training(at), made_up.training(at, "gpt_large")], {}),
    **{name: (name, lambda at, name=name: made_up.default_tables(at)[name], {}) for name in FIGURES},  # type: ignore[misc]
}
"""Studies unlike the default one, and that one: figure, tables, settings."""


@pytest.mark.parametrize("case", VARIANTS)
def test_no_word_is_cut_off_or_printed_over_another(case: str, tmp_path: Path) -> None:
    name, make, settings = VARIANTS[case]
    figure, numbers = drawn(name, make(tmp_path), **settings)
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible(figure)]
    assert len(boxes) > 5
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (text, box), (other, other_box) in combinations(boxes, 2):
        assert min(box.x1, other_box.x1) - max(box.x0, other_box.x0) < 1 or (
            min(box.y1, other_box.y1) - max(box.y0, other_box.y0) < 2
        ), (text, other)
    assert "nan" not in figure_module(name).caption(numbers).finding


def test_step_0_has_a_slot_of_its_own() -> None:
    scale = step_scale([0, 1, 10, 1000])
    at = scale.positions([0, 1, 10, 1000])
    np.testing.assert_allclose(at[1:], [0, 1, 3])
    assert -1 < at[0] < -0.3
    axis = Figure().add_subplot()
    scale.mark(axis)
    names = dict(zip(axis.get_xticks(), (label.get_text() for label in axis.get_xticklabels()), strict=True))
    assert names == {at[0]: "0", 0: "1", 1: "10", 2: "100", 3: "1k"}
    low, high = axis.get_xlim()
    assert low < at[0]
    assert high > 3
    assert len(axis.lines) == 2, "a break between 0 and 1"


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        ([0], ["0", "1"]),
        ([512], ["512"]),
        ([2000, 3000, 5000], ["2k", "5k"]),
        ([1000, 143000], ["1k", "10k", "100k"]),
        ([300, 400], ["300", "400"]),
    ],
)
def test_steps_have_ticks_wherever_they_are(steps: list[int], names: list[str]) -> None:
    axis = Figure().add_subplot()
    step_scale(steps).mark(axis)
    assert [label.get_text() for label in axis.get_xticklabels()] == names


def test_sites_that_are_no_checkpoints_bear_their_names() -> None:
    assert site_axis(LAYERS).scale is None
    assert site_names(LAYERS)[-1] == "block 11"
    two = (Site("a", 5, "blocks.0.hook_resid_post"), Site("b", 5, "blocks.0.attn.hook_z"))
    assert site_names(two) == ["a block 0 resid_post", "b block 0 attn.hook_z"]
    assert site_names(made_up.SITES)[-1] == "step 1,000"


def test_layers_are_in_order(tmp_path: Path) -> None:
    figure, _ = drawn("reconstruction", both(tmp_path, LAYERS))
    curve = lines(figure.axes[0])[0][:, 1]
    assert len(curve) == 12
    assert (np.diff(curve) > 0).all(), "the made-up error rises from block 0 to block 11"


def test_lines_do_not_lead_from_one_model_to_another(tmp_path: Path) -> None:
    figure, _ = drawn("reconstruction", both(tmp_path, TWO_MODELS))
    assert [len(line) for line in lines(figure.axes[0])] == [12, 12]


def test_names_are_spread_as_little_as_possible() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        centres, heights = random.uniform(0, 50, 6), random.uniform(1, 12, 6)
        places = spread(centres, heights, 0, 100)
        order = np.argsort(centres)
        gaps = np.diff(places[order]) - (heights[order][1:] + heights[order][:-1]) / 2
        assert gaps.min() > -1e-9
        assert (places - heights / 2).min() > -1e-9
        assert (places + heights / 2).max() < 100 + 1e-9
    np.testing.assert_allclose(spread(np.array([5.0, 90, 7]), np.array([4.0, 4, 4]), 0, 100), [4, 90, 8])


def test_shades_can_be_told_apart_in_grey() -> None:
    grey = [np.dot(to_rgb(shade), (0.299, 0.587, 0.114)) for shade in shades("#0072B2", 5)]
    assert (np.diff(grey) < -0.05).all()


def _edited(file: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    edit(pd.read_csv(file)).to_csv(file, index=False)
    return file


MISTAKES: dict[str, tuple[str, Callable[[Path], list[Path]], str]] = {
    "missing table": ("pareto", lambda at: [at / "reconstruction.csv"], "reconstruction.csv: there is no such table"),
    "empty file": ("reconstruction", lambda at: [_written(at / "a.csv", "")], "a.csv: no CSV table"),
    "no rows": ("pareto", lambda at: [_edited(both(at, LAST)[0], lambda table: table[:0])], "the table has no rows"),
    "column": (
        "language_model",
        lambda at: [_written(at / "a.csv", "step,split\n1,train\n")],
        "column 'loss' is missing",
    ),
    "no L0": (
        "pareto",
        lambda at: [_edited(both(at, LAST)[0], lambda table: table[table["metric"] != "l0"])],
        "no run has both 'l0' and 'explained_variance'",
    ),
    "no FVU": ("reconstruction", lambda at: both(at, LAST)[1:], "no table has the FVU of a site"),
    "two dictionaries": (
        "reconstruction",
        lambda at: both(at, LAST, "sae")[:1] + both(at, LAST)[:1],
        "they are of sae and crosscoder; expected the runs of one dictionary",
    ),
    "all dead": (
        "decoder_norms",
        lambda at: [made_up.features(at, made_up.norms(50), dead=1.0)],
        "none of 50 features fires on the heldout rows",
    ),
    "one site": (
        "decoder_norms",
        lambda at: [made_up.features(at, made_up.norms(50)[:, -1:], sites=LAST)],
        "the run has one site",
    ),
    "no Parquet": ("decoder_norms", lambda at: [_written(at / "a.parquet", "feature")], "a.parquet: no Parquet table"),
    "no features": ("decoder_norms", lambda at: [at / "features.parquet"], "features.parquet: there is no such table"),
    "no metadata": ("decoder_norms", lambda at: [_without_metadata(norms(at)[0])], "'dictionary' is missing"),
    "no loss": (
        "language_model",
        lambda at: [_edited(made_up.training(at), lambda table: table.assign(loss=np.nan))],
        "no loss is a finite number",
    ),
    "no tokenizer": (
        "language_model",
        lambda at: [made_up.training(at), _written(at / "tokenizer.json", "{}")],
        "tokenizer.json: no tokenizer",
    ),
    "only a tokenizer": ("language_model", lambda at: [made_up.tokenizer(at, 4)], "no training.csv was named"),
}


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def _without_metadata(file: Path) -> Path:
    pq.write_table(pq.read_table(file).replace_schema_metadata({}), file)
    return file


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case: str, tmp_path: Path) -> None:
    name, make, expected = MISTAKES[case]
    files = make(tmp_path)
    with pytest.raises(UserError) as error:
        write_figure(name, files, figure_kinds()[name](), FigureStyle(), tmp_path / "figures" / name, None)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "figures").exists()


def test_settings_of_another_figure_are_one_line(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "figure.py"),
        "--figure",
        "pareto",
        "--settings",
        '{"features": 3}',
    ]
    command += ["--tables", *map(str, tables["pareto"]), "--out", str(tmp_path / "pareto")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: --settings: no FigureSettings: ('features',): Extra inputs are not permitted"
    ]


def test_caption_speaks_of_the_numbers_drawn(tables: dict[str, list[Path]]) -> None:
    captions = {}
    for name in FIGURES:
        _, numbers = drawn(name, tables[name])
        captions[name] = figure_module(name).caption(numbers)
    assert "0.918 at L0 15.8 to 0.956 at L0 63 (crosscoder, all 12 sites)" in captions["pareto"].finding
    assert captions["pareto"].run == "3 runs of crosscoder and 3 runs of sae"
    assert captions["pareto"].tokens == "32,768 heldout rows"
    assert "0.015 (step 0) to 0.125 (step 1,000) at L0 31.5" in captions["reconstruction"].finding
    assert captions["reconstruction"].tokens == "32,768 heldout rows and 32,512 heldout tokens"
    table = pq.read_table(tables["decoder_norms"][0]).to_pandas()
    alive = table[~table["dead"]]
    assert (
        f"Of {len(alive):,} features that fire, {alive['initialisation'].sum():,}" in captions["decoder_norms"].finding
    )
    assert captions["decoder_norms"].run == "run latents2048-k32-seed0 of crosscoder"
    assert "a uniform guess over 4,096 tokens: 8.32 nats" in captions["language_model"].finding


@pytest.mark.parametrize("name", [*FIGURES, "workflow"])
def test_captions_of_the_report(name: str) -> None:
    output = tuple(f"results/{name}.{suffix}" for suffix in ("pdf", "png", "csv"))
    job = SimpleNamespace(config={"study": "pythia", "seed": 3}, output=output)
    source = (ROOT / "report" / f"{name}.rst").read_text(encoding="utf-8")
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=job)
    page = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["body"]
    assert "tudy pythia" in page
    if name in FIGURES:
        assert " ".join(source.split("\n\n")[0].split()) == figure_module(name).DESCRIPTION
