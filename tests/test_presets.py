"""Published recipes, as studies name them."""

from typing import Any

import pytest
from test_config import HOOK, changed

from ontogeny.config.dictionaries import RunSettings
from ontogeny.config.load import load_study
from ontogeny.config.presets import PRESETS
from ontogeny.crosscoder.schedule import learning_rate_factor
from ontogeny.errors import UserError


def preset_runs(preset: str, **given: Any) -> list[RunSettings]:
    sites = [{"model": "neox", "checkpoints": "all", "hooks": [HOOK]}]
    config = changed("dictionaries", value={"crosscoder": {"sites": sites, "preset": preset, **given}})
    del config["figures"], config["evaluation"]["matching"]
    return list(load_study(config).runs("crosscoder").values())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_needs_nothing_but_sites_and_gives_way_to_keys(preset: str) -> None:
    (run,) = preset_runs(preset)
    recipe = PRESETS[preset]
    assert run.learning_rate == recipe["learning_rate"]
    assert [run.latents, run.sparsity] == [*recipe["latents"], *recipe["sparsity"]]
    runs = preset_runs(preset, learning_rate=0.5, latents=[64, 128])
    assert [(run.latents, run.learning_rate) for run in runs] == [(64, 0.5), (128, 0.5)]
    assert all(run.batch_size == recipe["batch_size"] for run in runs)


def test_the_recipe_of_the_evolution_paper() -> None:
    (run,) = preset_runs("pythia-160m")
    steps = 390_625
    rates = [
        run.learning_rate * learning_rate_factor(step, steps, run.warmup, run.decay, run.final_learning_rate)
        for step in (0, 4_999, 100_000, steps - steps // 10, steps)
    ]
    halfway = 1 / 32 + (1 - 1 / 32) / 2
    assert rates == pytest.approx([5e-5 / 5000, 5e-5, 5e-5, 5e-5 * halfway, 5e-5 / 32], rel=1e-3)
    assert (run.gate, run.bandwidth, run.frequency_scale, run.site_error) == ("site", 4.0, 0.01, "mean")


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"dictionaries.crosscoder.preset: input should be 'pythia-160m'"):
        preset_runs("pythia")
