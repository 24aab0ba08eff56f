import math
from typing import Any

import pytest
from browser_runs import HOOK, KINDS

from ontogeny.browser.axis import axis_of, describe
from ontogeny.browser.drawing import HEIGHT, MARGIN, WIDTH, sparkline
from ontogeny.browser.quantities import number, percent, whole
from ontogeny.browser.samples import encoded_readings, sample_groups
from ontogeny.browser.tokens import shaded, visible
from ontogeny.database.documents import MeasuredSite
from ontogeny.database.feature_documents import Feature, Sample
from ontogeny.sites import Site


def measured(sites: list[Site]) -> list[MeasuredSite]:
    return [MeasuredSite(**site._asdict(), metrics=[]) for site in sites]


def feature(normalised: list[float]) -> Feature:
    peak = max(range(len(normalised)), key=normalised.__getitem__)
    said: dict[str, Any] = {
        "content": "c", "feature": 0, "density": 0.1, "mean_activation": 1.0, "max_activation": 2.0,
        "decoder_norms": normalised, "normalised_norms": normalised, "peak_norm": 1.0, "peak_site": peak,
        "peak_step": 0, "emergence_site": 0, "emergence_step": 0, "persistence": 1.0, "class": "fading", "dead": False,
        "type": None, "context_needed": None, "interpretation": None, "promoted": [], "snippet": None,
    }  # fmt: skip
    return Feature.model_validate(said)


def sample(**more: Any) -> Sample:
    said = {
        "rank": 0, "quantile": None, "activation": 2.0, "document": 3, "context": 4, "position": 9, "start": 1,
        "tokens": [0] * 17, "texts": [f" {n}" for n in range(17)], "activations": [0.0] * 17, "readings": b"",
        "readings_scale": 0.5,
    }  # fmt: skip
    return Sample.model_validate({**said, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_an_axis_follows_from_the_sites(kind: str) -> None:
    assert axis_of(measured(list(KINDS[kind]))).kind == ("checkpoints" if kind == "thirty-two" else kind)


def test_steps_stand_on_a_log_axis_with_step_0_in_a_slot_of_its_own() -> None:
    axis = axis_of(measured([Site("neox", step, HOOK) for step in (100, 0, 10, 1)]))
    assert axis.names == ("step 0", "step 1", "step 10", "step 100")
    assert axis.order == (1, 3, 2, 0)
    slot = 0.15 * 2
    assert axis.positions == pytest.approx([0, slot / (2 + slot), (1 + slot) / (2 + slot), 1])
    assert axis.gap == pytest.approx(slot / (2 + slot) / 2)
    assert [text for _, text in axis.ticks] == ["0", "1", "10", "100"]
    assert [place for place, _ in axis.ticks] == pytest.approx(axis.positions)
    assert axis.arranged(["c", "a", "cc", "b"]) == ["a", "b", "cc", "c"]
    assert axis.place(0) == 3
    assert axis.arranged([]) == []


def test_without_step_0_there_is_no_break() -> None:
    axis = axis_of(measured([Site("neox", step, HOOK) for step in (1, 10)]))
    assert (axis.gap, axis.positions) == (None, (0, 1))


def test_sites_are_described_in_a_few_words() -> None:
    assert describe(measured(list(KINDS["layers"]))) == "neox, step 512, 4 hook points"
    assert describe(measured(list(KINDS["sites"]))) == f"neox and gpt, 2 checkpoints, steps 0 to 512, {HOOK}"


def test_a_sparkline_stands_on_the_axis_of_the_steps() -> None:
    axis = axis_of(measured([Site("neox", step, HOOK) for step in (0, 1, 10, 100)]))
    drawn = sparkline(axis, feature([1.0, 0.0, 0.5, 0.25]), 0.5)
    assert drawn
    xs = [round(MARGIN + place * (WIDTH - 2 * MARGIN), 1) for place in axis.positions]
    low, high = HEIGHT - MARGIN, MARGIN
    assert drawn.dots == tuple(zip(xs, (high, low, (low + high) / 2, low - (low - high) / 4), strict=True))
    assert drawn.lead == f"{xs[0]:g},{high:g} {xs[1]:g},{low:g}"
    assert drawn.points.startswith(f"{xs[1]:g},{low:g} ")
    assert drawn.tau == (low + high) / 2
    assert drawn.text == "Decoder norm: above tau from step 0, largest at step 0"


def test_two_models_are_bars_and_one_site_is_no_drawing() -> None:
    drawn = sparkline(axis_of(measured(list(KINDS["models"]))), feature([0.5, 1.0]), 0.5)
    assert drawn
    assert [bar[3] for bar in drawn.bars] == [10.0, 20.0]
    assert (drawn.points, drawn.colour) == ("", "")
    assert sparkline(axis_of(measured(list(KINDS["one"]))), feature([1.0]), 0.5) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (0.0, "0"),
        (1234.5, "1,234"),
        (12.345, "12.3"),
        (-0.05, "\u22120.0500"),
        (1.5e-5, "1.5e\u22125"),
        (2.5e7, "2.5e7"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_shares_and_counts_are_written_as_such() -> None:
    assert [percent(0.0312), percent(None), whole(143000.0), whole(math.nan)] == [
        "3.12 %",
        "\u2013",
        "143,000",
        "\u2013",
    ]


def test_tokens_are_shaded_by_activation() -> None:
    tokens = shaded(["a", "\n", "", "b"], [1.0, None, -1.0, 9.0], 4.0)
    assert [token.share for token in tokens] == [0.25, 0.0, 0.0, 1.0]
    assert [token.text for token in tokens] == ["a", "\u21b5", "\u2205", "b"]
    assert tokens[1].title == "not read"
    assert shaded(["a"], [1.0], 0.0)[0].share == 0.0
    assert visible(" x") == " x"


def test_samples_are_shown_strongest_first_with_a_few_tokens_around_their_place() -> None:
    bands = [None, None, 0, 1, 1, 2]
    groups = sample_groups([sample(quantile=band) for band in bands], 2.0)
    assert [group.title for group in groups] == [
        "Strongest", "Band 3 of 3, strongest firings", "Band 2 of 3", "Band 1 of 3, weakest firings",
    ]  # fmt: skip
    assert [[view.number for view in group.samples] for group in groups] == [[0, 1], [5], [3, 4], [2]]
    view = groups[0].samples[0]
    assert (view.middle, view.near, view.hidden) == (8, range(2, 15), 4)


def test_readings_are_packed_in_the_order_of_the_axis() -> None:
    axis = axis_of(measured([Site("neox", step, HOOK) for step in (10, 0)]))
    assert encoded_readings(sample(tokens=[1, 2], readings=bytes([1, 2, 3, 4])), axis) == "AwQBAg=="
    assert encoded_readings(sample(tokens=[1, 2], readings=b""), axis) == ""
