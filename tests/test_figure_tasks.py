"""What the figures of tasks draw is what was measured, and they say what is at chance and what was not measured."""

from pathlib import Path

import figure_tables as made_up
import model_tables
import numpy as np
import pandas as pd
import pytest
from figure_drawing import drawn, lines, words

from ontogeny.evaluation.tasks import TASKS
from ontogeny.figures.tasks import TASKS as NAMES
from ontogeny.figures.tasks import above_from, verdict
from ontogeny.sites import Site


def test_every_task_has_a_name() -> None:
    assert tuple(NAMES) == TASKS


def test_each_of_two_models_has_its_own_leading_features(tmp_path: Path) -> None:
    both = (Site("base", 500, "blocks.2.hook_resid_post"), Site("tuned", 300, "blocks.2.hook_resid_post"))
    tasks, features = model_tables.tasks(tmp_path, "attribution", both)
    table = pd.read_csv(features)
    table = table[(table["model"] == "tuned") | (table["feature"] != 88)]
    table.to_csv(features, index=False)
    figure, numbers = drawn("attribution", [tasks, features])
    assert set(numbers.loc[numbers["feature"] == 88, "model"]) <= {"tuned"}
    shown = numbers[(numbers["panel"] == "features") & (numbers["task"] == TASKS[0])]
    drawn_values = np.concatenate([line.get_ydata() for line in figure.axes[1].lines if line.get_markersize() == 2])
    drawn_values = drawn_values[np.isfinite(drawn_values)]
    assert sorted(drawn_values) == sorted(shown["value"])


def test_what_is_measured_at_one_site_is_a_point(tmp_path: Path) -> None:
    figure, numbers = drawn("necessity_sufficiency", model_tables.tasks(tmp_path, "ablations", made_up.LAST))
    points = [line for line in figure.axes[2].lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    shown = numbers[(numbers["task"] == TASKS[0]) & numbers["step"].notna()]
    assert len(points) >= 3
    assert set(np.concatenate([line.get_ydata() for line in points])) <= set(shown["value"])


def test_attribution_draws_the_table(tmp_path: Path) -> None:
    files = model_tables.tasks(tmp_path, "attribution")
    figure, numbers = drawn("attribution", files)
    tasks, features = map(pd.read_csv, files)
    for number, task in enumerate(TASKS):
        left, right = figure.axes[2 * number : 2 * number + 2]
        measured = tasks[(tasks["task"] == task) & (tasks["metric"] == "logit_difference")].sort_values("step")
        (on_paper,) = [line for line in lines(left) if len(line) == 11]
        np.testing.assert_array_equal(on_paper[:, 1], measured["value"][1:])
        in_table = numbers[(numbers["panel"] == "task") & (numbers["task"] == task)]
        np.testing.assert_allclose(in_table["high"], measured["value"] + 2.1314 * 0.02, rtol=1e-4)
        assert (in_table["groups"] == 16).all(), "15 degrees of freedom"
        assert "chance" in words(left)
        assert any("64 items (34 left out)" in text for text in words(left))

        own = features[features["task"] == task]
        best = set(own.groupby("feature")["integrated_gradients"].max().nlargest(4).index)
        assert {f"#{feature}" for feature in best} <= set(words(right))
        in_table = numbers[(numbers["panel"] == "features") & (numbers["task"] == task)]
        np.testing.assert_allclose(in_table["activation_x_gradient"], 0.7 * in_table["value"])
        leading = np.concatenate([line for line in lines(right) if len(line)])
        assert sorted(leading[:, 1]) == sorted(
            own.loc[(own["rank"] == 1) & own["feature"].isin(best), "integrated_gradients"]
        )


def test_necessity_and_sufficiency_draw_the_table(tmp_path: Path) -> None:
    files = model_tables.tasks(tmp_path, "ablations")
    figure, numbers = drawn("necessity_sufficiency", files)
    table = pd.read_csv(files[1])
    drawn_steps = sorted(numbers.loc[numbers["against_k"], "step"].unique())
    assert drawn_steps == [64, 1000], "where agreement gets above chance, and the end"
    key = ["task", "step", "features", "ranking", "k"]
    both = numbers.dropna(subset="k").merge(table, on=key, suffixes=("", "_measured"))
    assert len(both) == len(table) == (numbers["ranking"] != "clean").sum() - (numbers["features"] == "all").sum() // 2
    np.testing.assert_array_equal(both["value"], both["value_measured"])
    for row, task in enumerate(TASKS):
        for column, (step, kind) in enumerate([(64, "ablated"), (64, "kept"), (1000, "ablated"), (1000, "kept")]):
            axis = figure.axes[5 * row + column]
            own = table[(table["task"] == task) & (table["step"] == step) & (table["features"] == kind)]
            for line, ranking in zip(axis.lines, ("random", "activation", "attribution"), strict=False):
                expected = own[own["ranking"] == ranking]
                np.testing.assert_array_equal(line.get_ydata(), expected["value"])
                np.testing.assert_allclose(10 ** line.get_xdata(), expected["k"])
        assert {"attribution", "activation", "random"} <= set(words(figure.axes[5 * row + 3]))
        assert {"chance", "clean", "no features"} <= set(words(figure.axes[5 * row + 1]))
        assert len({figure.axes[5 * row + column].get_ylim() for column in range(5)}) == 1


def test_every_checkpoint_is_drawn_with_features_ablated(tmp_path: Path) -> None:
    files = model_tables.tasks(tmp_path, "ablations")
    figure, _ = drawn("necessity_sufficiency", files)
    tasks, table = map(pd.read_csv, files)
    for row, task in enumerate(TASKS):
        axis = figure.axes[5 * row + 4]
        on_paper = [line.get_ydata() for line in axis.lines if len(line.get_ydata()) == 11]
        own = table[(table["task"] == task) & (table["features"] == "ablated") & (table["ranking"] == "attribution")]
        clean = tasks[(tasks["task"] == task) & (tasks["metric"] == "logit_difference")]
        expected = [*(own[own["k"] == k] for k in (1, 64, 1024)), clean]
        np.testing.assert_array_equal(on_paper, [part.sort_values("step")["value"][1:] for part in expected])
        assert {"k = 1", "k = 64", "k = 1,024", "clean"} <= set(words(axis))


def test_tasks_with_too_few_items_are_named_and_not_drawn(tmp_path: Path) -> None:
    for name, kind in (("attribution", "attribution"), ("necessity_sufficiency", "ablations")):
        figure, _ = drawn(name, model_tables.tasks(tmp_path, kind, measured=("agreement",)))
        said = [text for axis in figure.axes for text in words(axis)]
        assert sum("too few items" in text for text in said) >= 8
        assert sum("2 items (12,345 left out), not measured" in text for text in said) == 4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([-0.1, 0.1, 0.5, 0.9], "above chance from c on"),
        ([0.5, 0.1, 0.5, 0.9], "above chance from c on"),
        ([0.5, 0.5, 0.5, 0.9], "above chance everywhere"),
        ([0.5, 0.5, 0.5, 0.1], "not above chance at d"),
        ([0.0, 0.0, 0.0, -0.5], "below chance at d"),
        ([np.nan] * 4, "not measured"),
    ],
)
def test_chance_is_told_by_intervals(values: list[float], said: str) -> None:
    value = np.array(values)
    rows = pd.DataFrame({"value": value, "low": value - 0.2, "high": value + 0.2, "chance": 0.0})
    assert verdict(rows, ["a", "b", "c", "d"]) == said
    assert (above_from(rows) is not None) == said.startswith("above")
