"""Figures of studies of every kind: axes, names, nothing cut off."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import axis_tables
import figure_tables as made_up
import model_tables
import numpy as np
import pytest
import sweep_tables
from default_tables import default_tables
from figure_drawing import FIGURES, drawn, lines, visible
from interpreted_features import rated_of
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_figure_one_site import tables_at_one_site

from ontogeny.colours import shades
from ontogeny.figures.axes import mark_steps, site_axis
from ontogeny.figures.style import spread
from ontogeny.figures.writer import figure_module
from ontogeny.site_names import site_names
from ontogeny.sites import Site
from ontogeny.step_scale import step_scale

TWO_MODELS = tuple(Site(model, step, made_up.HOOK) for model in ("neox", "gpt") for step in made_up.STEPS)


def _over_models(at: Path) -> list[Path]:
    return [made_up.features(at, np.tile(made_up.norms(300), 2), sites=TWO_MODELS)]


def _many(at: Path) -> list[Path]:
    """Thirty-two checkpoints, as in the paper."""
    steps = (0, *(2**n for n in range(10)), *range(1000, 143001, 7100)[:20], 143000)
    sites = tuple(Site("pythia", step, made_up.HOOK) for step in steps)
    norms_LS = np.repeat(made_up.norms(300), 3, axis=1)[:, : len(sites)]
    return [made_up.features(at, norms_LS, sites=sites)]


VARIANTS: dict[str, tuple[str, Callable[[Path], list[Path]], dict[str, Any]]] = {
    "sizes and seeds": (
        "pareto",
        lambda at: [*sweep_tables.sizes_and_seeds(at), made_up.reconstruction_and_nll(at, made_up.LAST, "sae")[0]],
        {},
    ),
    "one comparison": ("robustness", lambda at: made_up.comparisons(at, "other-seed"), {}),
    "five comparisons": ("robustness", lambda at: made_up.comparisons(at, *"abcde"), {}),
    "two checkpoints shared": (
        "robustness",
        lambda at: made_up.comparisons(at, "other", steps=made_up.STEPS[:2]),
        {"width": 88},
    ),
    "floor of several sizes and sparsities": (
        "pareto",
        lambda at: [
            *sweep_tables.sizes_and_seeds(at),
            *(
                made_up.reconstruction(at, made_up.identity("floor", k), made_up.UNTRAINED, shift=-0.1)
                for k in (16, 64)
            ),
        ],
        {},
    ),
    "two sweeps": (
        "superposition",
        lambda at: [sweep_tables.superposition(at), sweep_tables.superposition(at, "other_sae", seeds=(0, 1))],
        {},
    ),
    "one run": ("pareto", lambda at: made_up.reconstruction_and_nll(at, made_up.SITES)[:1], {}),
    "one site, one run": ("pareto", lambda at: made_up.reconstruction_and_nll(at, made_up.LAST, "sae")[:1], {}),
    "error of sizes and seeds": ("reconstruction", sweep_tables.sizes_and_seeds, {"width": 88}),
    "one site": ("reconstruction", lambda at: made_up.reconstruction_and_nll(at, made_up.LAST, "sae"), {}),
    "sizes at one site": ("reconstruction", tables_at_one_site, {}),
    "layers": ("reconstruction", lambda at: made_up.reconstruction_and_nll(at, made_up.LAYERS), {}),
    "models": ("reconstruction", lambda at: made_up.reconstruction_and_nll(at, TWO_MODELS), {}),
    "norms over layers": ("decoder_norms", lambda at: made_up.features_of(at, sites=made_up.LAYERS), {}),
    "one class": ("decoder_norms", lambda at: made_up.features_of(at, initial=0), {"features": 1000}),
    "few features of a class": ("decoder_norms", lambda at: made_up.features_of(at, initial=0.01), {}),
    "overview of layers": (
        "evolution_overview",
        lambda at: made_up.overview_of(at, *made_up.features_of(at, sites=made_up.LAYERS)),
        {},
    ),
    "overview of models": ("evolution_overview", lambda at: made_up.overview_of(at, *_over_models(at)), {}),
    "overview of one class": (
        "evolution_overview",
        lambda at: made_up.overview_of(at, *made_up.features_of(at, initial=0)),
        {},
    ),
    "overview of few features of a class": (
        "evolution_overview",
        lambda at: made_up.overview_of(at, *made_up.features_of(at, initial=0.99)),
        {},
    ),
    "overview of many checkpoints": ("evolution_overview", lambda at: made_up.overview_of(at, *_many(at)), {}),
    "classes of layers": (
        "feature_classes",
        lambda at: made_up.classes_of(at, *made_up.features_of(at, sites=made_up.LAYERS)),
        {},
    ),
    "classes of models": ("feature_classes", lambda at: made_up.classes_of(at, *_over_models(at)), {}),
    "emergent classes": ("feature_classes", lambda at: made_up.classes_of(at, *made_up.features_of(at, initial=0)), {}),
    "classes of few features": (
        "feature_classes",
        lambda at: made_up.classes_of(at, made_up.features(at, made_up.norms(3), dead=0)),
        {},
    ),
    "classes in a column": (
        "feature_classes",
        lambda at: made_up.classes_of(at, *_many(at)),
        {"width": 140, "height": 60},
    ),
    "short training": ("language_model", lambda at: [model_tables.training(at, scale=0.3)], {}),
    "two models": (
        "language_model",
        lambda at: [model_tables.training(at), model_tables.training(at, "gpt_large")],
        {},
    ),
    "n-grams alone": ("two_phases", lambda at: [model_tables.ngram(at)], {"warmup_steps": 100}),
    "warm-up to the end": ("two_phases", lambda at: default_tables(at)["two_phases"], {"warmup_steps": 5000}),
    "late checkpoints": ("two_phases", lambda at: [model_tables.ngram(at, (512, 1000))], {"warmup_steps": 100}),
    "probes over layers": ("norm_as_strength", lambda at: [made_up.probes(at, made_up.LAYERS)], {}),
    "no low norm": ("norm_as_strength", lambda at: [made_up.probes(at)], {"low_norm": 0.001}),
    "tasks at one site": ("attribution", lambda at: model_tables.tasks(at, "attribution", made_up.LAST), {}),
    "tasks over layers": ("attribution", lambda at: model_tables.tasks(at, "attribution", made_up.LAYERS), {}),
    "tasks without items": ("attribution", lambda at: model_tables.tasks(at, "attribution", measured=()), {}),
    "ablations at one site": (
        "necessity_sufficiency",
        lambda at: model_tables.tasks(at, "ablations", made_up.LAST),
        {},
    ),
    "ablations over layers": (
        "necessity_sufficiency",
        lambda at: model_tables.tasks(at, "ablations", made_up.LAYERS),
        {},
    ),
    "ablations of one task": (
        "necessity_sufficiency",
        lambda at: model_tables.tasks(at, "ablations", measured=("induction",)),
        {},
    ),
    "types of layers": (
        "feature_types",
        lambda at: made_up.types_of(at, *made_up.features_of(at, sites=made_up.LAYERS)),
        {},
    ),
    "one type": ("feature_types", lambda at: made_up.types_of(at, *made_up.features_of(at), ("other",)), {}),
    "three types": ("feature_types", lambda at: made_up.types_of(at, *_many(at), made_up.TYPES[:3]), {}),
    "equal contexts": ("complexity", lambda at: made_up.types_of(at, *made_up.features_of(at), context=1), {}),
    "contexts in many checkpoints": ("complexity", lambda at: made_up.types_of(at, *_many(at)), {}),
    "contexts of few features": (
        "complexity",
        lambda at: made_up.types_of(at, made_up.features(at, made_up.norms(5), dead=0)),
        {"resamples": 50},
    ),
    "ratings": ("complexity", lambda at: rated_of(at, *made_up.features_of(at)), {}),
    "equal ratings": ("complexity", lambda at: rated_of(at, *made_up.features_of(at), most=1), {}),
    "ratings in many checkpoints": ("complexity", lambda at: rated_of(at, *_many(at)), {}),
    "many layers": ("layers", lambda at: axis_tables.layers(at, 12), {}),
    "two layers, one run": ("layers", lambda at: axis_tables.layers(at, 2, (32,)), {}),
    "layers without SAEs": ("layers", lambda at: axis_tables.layers(at, saes=0), {}),
    "SAEs of one layer": ("layers", lambda at: axis_tables.layers(at, saes=1), {}),
    "one dictionary of two models": ("model_diff", lambda at: axis_tables.two_models(at, "crosscoder"), {}),
    "many dictionaries of two models": (
        "model_diff",
        lambda at: axis_tables.two_models(at, *(f"a_dictionary_with_a_long_name_{number}" for number in range(5))),
        {},
    ),
    "no feature of one model alone": (
        "model_diff",
        lambda at: [
            axis_tables.model_diff(at, run := made_up.identity("l1", 32), 0),
            *axis_tables.losses(at, run, axis_tables.MODELS),
        ],
        {},
    ),
    **{name: (name, lambda at, name=name: default_tables(at)[name], {}) for name in FIGURES},  # type: ignore[misc]
}
"""Studies unlike the default one, and that one: figure, tables, settings."""


@pytest.mark.parametrize("case", VARIANTS)
def test_no_word_is_cut_off_or_printed_over_another(case: str, tmp_path: Path) -> None:
    name, make, settings = VARIANTS[case]
    figure, numbers = drawn(name, make(tmp_path), **settings)
    width, height = figure.get_size_inches() * figure.dpi
    # Of words alone: the box of an annotation would hold the leader that ends before it, too.
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in visible(figure)]
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
    mark_steps(scale, axis)
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
        ([20, 300], ["20", "50", "100", "200"]),
    ],
)
def test_steps_have_ticks_wherever_they_are(steps: list[int], names: list[str]) -> None:
    axis = Figure().add_subplot()
    mark_steps(step_scale(steps), axis)
    assert [label.get_text() for label in axis.get_xticklabels()] == names


def test_sites_that_are_no_checkpoints_bear_their_names() -> None:
    assert site_axis(made_up.LAYERS).scale is None
    assert site_names(made_up.LAYERS)[-1] == "block 11"
    two = (Site("a", 5, "blocks.0.hook_resid_post"), Site("b", 5, "blocks.0.attn.hook_z"))
    assert site_names(two) == ["a block 0 resid_post", "b block 0 attn.hook_z"]
    assert site_names(made_up.SITES)[-1] == "step 1,000"


def test_layers_are_in_order(tmp_path: Path) -> None:
    figure, _ = drawn("reconstruction", made_up.reconstruction_and_nll(tmp_path, made_up.LAYERS))
    curve = lines(figure.axes[0])[0][:, 1]
    assert len(curve) == 12
    assert (np.diff(curve) > 0).all(), "the made-up error rises from block 0 to block 11"


def test_lines_do_not_lead_from_one_model_to_another(tmp_path: Path) -> None:
    figure, _ = drawn("reconstruction", made_up.reconstruction_and_nll(tmp_path, TWO_MODELS))
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
