"""Which runs a study compares with the featured one."""

from pathlib import Path

import pytest
import yaml
from test_config import changed

from ontogeny.config.comparison import compared_runs, dictionaries_drawn, pareto_dictionaries, sizes_swept
from ontogeny.config.load import load_study
from ontogeny.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


def test_runs_of_the_featured_point_are_compared_with_it() -> None:
    study = load_study(changed("dictionaries", "other-seed", "seeds", value=[1, 2]))
    run = "latents2048-k32-sparsity0.2-seed"
    expected = [("half-the-checkpoints", 0), ("other-spacing", 0), ("other-seed", 1), ("other-seed", 2)]
    assert compared_runs(study) == tuple((name, f"{run}{seed}") for name, seed in expected)
    assert dictionaries_drawn(study) == ("crosscoder", "crosscoder-512", "untrained", "sae")
    config = changed("dictionaries", "crosscoder", "seeds", value=[0, 5])
    config["evaluation"]["matching"]["against"] = ["crosscoder"]
    assert compared_runs(load_study(config)) == (("crosscoder", f"{run}5"),)


def test_sweeps_of_every_block_have_their_own_figure_in_place_of_pareto() -> None:
    supertiny = yaml.safe_load((CONFIGS / "supertiny-small.yaml").read_text())
    assert pareto_dictionaries(load_study(supertiny)) == ()
    assert "sweep" in load_study(supertiny).figure_names()
    supertiny["dictionaries"]["block-2"]["latents"] = [512]
    assert pareto_dictionaries(load_study(supertiny)) == tuple(supertiny["dictionaries"])


def test_saes_of_many_layers_have_their_own_figure_in_place_of_pareto() -> None:
    layers = yaml.safe_load((CONFIGS / "cross-layer-small.yaml").read_text())
    assert pareto_dictionaries(load_study(layers)) == ()
    assert "layers" in load_study(layers).figure_names()
    kept = ("crosscoder", "sae-0", "sae-5")
    layers["dictionaries"] = {name: layers["dictionaries"][name] for name in kept}
    assert pareto_dictionaries(load_study(layers)) == kept


def test_sweeps_beside_one_of_superposition_are_drawn() -> None:
    config = yaml.safe_load((CONFIGS / "superposition-small.yaml").read_text())
    assert not {"pareto", "sweep"} & {*load_study(config).figure_names()}
    own = config["dictionaries"]["sae"]
    for k in (1, 2, 3):
        swept = {"sites": own["sites"], "latents": [8, 16], "nonlinearity": "topk", "k": [k, k + 1]}
        config["dictionaries"][f"topk-{k}"] = swept
    study = load_study(config)
    assert sizes_swept(study) == ("topk-1", "topk-2", "topk-3")
    assert {"superposition", "sweep"} <= {*study.figure_names()}


def test_dictionaries_that_start_alike_are_not_compared() -> None:
    """With one draw for all sites and one seed, half of the features of a small study match, and a tenth with others."""
    config = changed("dictionaries", "crosscoder", "initialisation", value="tied")
    load_study(config)
    config["dictionaries"]["other-spacing"]["initialisation"] = "tied"
    with pytest.raises(UserError, match=r"other-spacing starts from the same directions as latents2048-k32-.*, seed 0"):
        load_study(config)
    config["dictionaries"]["other-spacing"]["seeds"] = [1]
    load_study(config)
