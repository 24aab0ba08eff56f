"""The plan of a study counts what its stages really take."""

from pathlib import Path

import pytest
import yaml

from ontogeny.config.load import load_study
from ontogeny.plan import Shape, plan_text, study_costs

CONFIG = {
    "corpus": {"source": "package"},
    "models": {"neox": {"source": "train", "checkpoints": [0, 8], "architecture": {"layers": 2, "d_model": 4, "heads": 1, "rotary_fraction": 1.0},
                        "training": {"steps": 10, "batch_size": 2}}},
    "tokens": {"context_length": 8},
    "activations": {"train_rows": 100, "heldout_rows": 20, "rows_per_shard": 50},
    "dictionaries": {"cc": {"sites": [{"model": "neox", "hooks": ["blocks.0.hook_resid_post"]}],
                            "latents": [16], "k": [2, 4], "epochs": 3}},
    "evaluation": {"nll": {"tokens": 64}},
}  # fmt: skip


def test_costs_are_those_counted_by_hand() -> None:
    shape = Shape(layers=2, d_model=4, d_mlp=16, vocab_size=10)
    assert shape.forward_flop(1) == 2 * (4 * 16 + 2 * 4 * 16)
    training, harvest, dictionary, nll = study_costs(load_study(CONFIG), {"neox": shape})
    assert training.tokens == 10 * 2 * 8
    assert training.flop == 160 * 3 * shape.forward_flop()
    assert harvest.jobs == 2 * 3
    assert harvest.disk == 2 * 120 * 4 * 2
    assert harvest.flop == 2 * 120 * shape.forward_flop(1)
    assert dictionary.flop == 2 * 10 * (2 * 4) * 16 * 100 * 3
    assert nll.flop == 2 * 2 * 4 * 64 * shape.forward_flop()


def test_model_of_unknown_shape_is_named() -> None:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    config["models"]["neox"] = {"source": "hub", "name": "EleutherAI/pythia-160m", "checkpoints": [0, 8]}
    assert "neox: on the hub, of unknown shape, counted as nothing" in plan_text(load_study(config), 1.0)


@pytest.mark.parametrize("rate", [0.1, 100.0])
def test_hours_follow_the_rate(rate: float) -> None:
    study = load_study(yaml.safe_load((Path(__file__).resolve().parents[1] / "config.yaml").read_text()))
    total = plan_text(study, rate).splitlines()[-1].split()
    assert float(total[-1]) == pytest.approx(float(total[-2]) / rate / 1e12 / 3600, rel=0.01)
