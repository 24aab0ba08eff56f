"""The plan counts the measurements of the featured run, and what a language model is asked about its features."""

import copy
from pathlib import Path
from typing import Any

import interpreted_features as made_up
import pytest
from test_plan import CONFIG, costs

from ontogeny import featured_costs
from ontogeny.config.load import load_study
from ontogeny.costs import Shape
from ontogeny.evaluation.tasks import TASKS
from ontogeny.interpretation.cache import Cache
from ontogeny.interpretation.ratings import outlook, read_subjects
from ontogeny.plan import plan_text

SHAPE = Shape(layers=2, d_model=4, d_mlp=16, vocab_size=10)
BLOCK = 2 * (4 * 16 + 2 * 4 * 16)
"""FLOP of a token through a block: 192 weights."""
WHOLE = 2 * BLOCK + 2 * 4 * 10
ENCODE = 2 * (2 * 4) * 16
"""FLOP of encoding a row of two sites with 16 latents."""
SITE = {"model": "neox", "hooks": ["blocks.0.hook_resid_post"]}


def study(**changes: Any) -> dict[str, Any]:
    """Two checkpoints of two blocks, and the same again with another seed; contexts have 8 tokens."""
    config = copy.deepcopy(CONFIG)
    config["dictionaries"]["again"] = {**config["dictionaries"]["cc"], "seeds": [1]}
    config["evaluation"] |= {
        "matching": {"against": ["again"]},
        "ngram": {"tokens": 40},
        "probes": {"rows": 50, "features": 8},
        "tasks": {"items": 2, "integration_steps": 3, "ks": [1, 4, 64]},
        "feature_types": {"features": 6, "samples": 2, "sequences": 5},
    }
    config["figures"] = {"run": ["cc", "latents16-k2-seed0"]}
    return {**config, **changes}


def test_measurements_cost_what_is_counted_by_hand() -> None:
    found = costs(load_study(study()), {"neox": SHAPE})
    assert found["ngram neox"].flop == 2 * 40 * WHOLE
    assert found["probes"].flop == (50 + 20) * (ENCODE + 2 * (2 * 4**2 + 4 * 4 * 8))
    assert found["probes"].tokens == 70
    tokens = 5 * 2 * 8
    passes = 2 + 2 * (1 + 3) + 3 * 2 * 2
    assert found["attribution neox"].flop == tokens * (2 * BLOCK + ENCODE + passes * 2 * (WHOLE - BLOCK))
    copies = 2 * 5 * (1 + 2 * 3)
    cut = 6 * 2 * ((1 + 1) + (2 + 1) + (4 + 1))
    encoded = 20 + copies + 6 * 2 * 3
    assert found["feature_types"].flop == encoded * ENCODE + (copies + cut) * 2 * BLOCK
    assert found["feature_types"].tokens == 20 + copies + cut
    assert found["matching"].flop == 20 * ENCODE + 2 * 16 * 16 * (2 * 4)
    assert found["matching"].jobs == 1
    assert found["geometry"].flop == 16 * (2 * 2 * 2 * 4 + 2 * 4 * 4**2)
    assert "windows" not in found


def test_what_no_figure_needs_is_not_counted() -> None:
    config = study()
    config["dictionaries"]["cc"]["sites"] = [{**SITE, "checkpoints": "last"}]
    config["evaluation"].pop("matching")
    del config["dictionaries"]["again"]
    found = costs(load_study(config), {"neox": SHAPE})
    runs = {"reconstruction", "features", "decoders"}
    later = set(found) - {"tokens", "language_model neox", "activations", "dictionary cc", "losses", *runs}
    assert later == {"attribution neox"}
    config["models"]["neox"] = {"source": "planted", "d_model": 4, "checkpoints": [0, 8]}
    config["dictionaries"]["cc"]["sites"] = [SITE]
    later = set(costs(load_study(config), {"neox": SHAPE})) - {"tokens", "activations", "dictionary cc", *runs}
    assert later == {"probes", "geometry"}


def test_models_of_unknown_shape_count_nothing() -> None:
    found = {cost.stage: cost for cost in featured_costs.featured_costs(load_study(study()), {})}
    measured = ("ngram neox", "probes", "attribution neox", "feature_types", "matching", "geometry")
    assert [found[name].flop for name in measured] == [0] * 6


def test_there_are_as_many_tasks_as_the_plan_says() -> None:
    assert len(TASKS) == featured_costs.TASKS


def test_the_plan_names_requests_and_their_cost() -> None:
    given = {"endpoint": "http://here/v1", "model": "judge", "window": 8, "examples": 3, "tests": 5}
    prices = {"input_price": 2.0, "output_price": 10.0}
    config = study(interpretation={**given, **prices})
    found = costs(load_study(config), {"neox": SHAPE})
    assert found["windows"].flop == 20 * ENCODE
    asked = featured_costs.requests(load_study(config))
    assert asked.requests == 3 * 6, "the six features whose types are measured"
    assert asked.output_tokens == 6 * (60 + 2 * 4 * 6)
    assert found["interpretation"].tokens == asked.input_tokens
    (line,) = [line for line in plan_text(load_study(config), 1.0).splitlines() if line.startswith("interpretation: ")]
    cost = (asked.input_tokens * 2 + asked.output_tokens * 10) / 1e6
    assert line == (
        f"interpretation: about 18 requests, {asked.input_tokens:,} tokens of questions and {asked.output_tokens} of "
        f"answers; cost {cost:.4g}; answers that cannot be read are asked for again, those in "
        "results/cache/interpretation/ are not"
    )
    untold = plan_text(load_study(study(interpretation={**given, "features": 99})), 1.0)
    assert "interpretation: about 48 requests" in untold, "there are 16 latents"
    assert "interpretation.input_price and output_price would tell the cost" in untold
    assert "interpretation" not in plan_text(load_study(study()), 1.0)


def test_the_plan_agrees_with_what_is_told_before_the_first_request(tmp_path: Path) -> None:
    """For windows of as many tokens, of four letters each, both estimate the same."""
    window = (["xxxx"] * 8, [False] * 8)
    roles = [("example", None)] * 3 + [
        (role, truth) for role in ("detection", "fuzzing") for truth in (True, False) * 2
    ]
    rows = [(0, role, number, truth, None, 1.0, 0, 0, *window) for number, (role, truth) in enumerate(roles)]
    given = {"endpoint": "http://here/v1", "model": "judge", "window": 8, "examples": 3, "tests": 5, "features": 1}
    planned = featured_costs.requests(load_study(study(interpretation=given)))
    settings = load_study(study(interpretation=given)).interpretation
    subjects, _ = read_subjects(made_up.write(tmp_path / "windows.parquet", rows))
    assert outlook(Cache(tmp_path / "cache", settings), subjects, settings).endswith(planned.text(settings))


@pytest.mark.parametrize("features", [1, 5])
def test_requests_grow_with_features(features: int) -> None:
    given = {"endpoint": "http://here/v1", "model": "judge", "features": features}
    assert featured_costs.requests(load_study(study(interpretation=given))).requests == 3 * features
