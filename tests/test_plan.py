"""The plan of a study counts what its stages really take."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ontogeny.config.load import load_study
from ontogeny.config.study import Study
from ontogeny.costs import Cost
from ontogeny.errors import UserError
from ontogeny.evaluation.decoder_tables import TOKENS
from ontogeny.plan import Shape, known_shape, plan_text, study_costs
from ontogeny.plan_activations import readings

PROJECT = Path(__file__).resolve().parents[1]

CONFIG: dict[str, Any] = {
    "corpus": {"source": "package"},
    "models": {"neox": {"source": "train", "checkpoints": [0, 8], "architecture": {"layers": 2, "d_model": 4, "heads": 1, "rotary_fraction": 1.0},
                        "training": {"steps": 10, "batch_size": 2}}},
    "tokens": {"context_length": 8},
    "activations": {"train_rows": 100, "heldout_rows": 20, "rows_per_shard": 50},
    "dictionaries": {"cc": {"sites": [{"model": "neox", "hooks": ["blocks.0.hook_resid_post"]}],
                            "latents": [16], "k": [2, 4], "epochs": 3, "batch_size": 10}},
    "evaluation": {"nll": {"tokens": 64}},
}  # fmt: skip


def costs(study: Study, shapes: dict[str, Shape]) -> dict[str, Cost]:
    return {cost.stage: cost for cost in study_costs(study, shapes)}


def command(script: str, *options: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, str(PROJECT / "scripts" / script), *options]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


def test_costs_are_those_counted_by_hand() -> None:
    shape = Shape(layers=2, d_model=4, d_mlp=16, vocab_size=10)
    assert shape.forward_flop(1) == 2 * (4 * 16 + 2 * 4 * 16)
    stages = ("language_model neox", "activations", "dictionary cc", "losses")
    training, harvest, dictionary, nll = (costs(load_study(CONFIG), {"neox": shape})[stage] for stage in stages)
    assert training.tokens == 10 * 2 * 8
    assert training.flop == 160 * 3 * shape.forward_flop()
    assert harvest.jobs == 2 * 3
    assert harvest.disk == 2 * 120 * 4 * 2
    int8 = {**CONFIG, "activations": {**CONFIG["activations"], "dtype": "int8"}}
    assert costs(load_study(int8), {"neox": shape})["activations"].disk == 2 * 120 * (4 + 4)
    assert harvest.flop == 2 * 120 * shape.forward_flop(1)
    assert dictionary.flop == 2 * 10 * (2 * 4) * 16 * 100 * 3
    assert dictionary.disk == 2 * 2 * (2 * 4) * 16 * 4
    assert nll.flop == 2 * 2 * 4 * 64 * shape.forward_flop()


def test_each_run_is_measured_and_described() -> None:
    """Two runs of 16 latents over two sites of 4 channels and 10 tokens, on 20 heldout rows."""
    shape = Shape(layers=2, d_model=4, d_mlp=16, vocab_size=10)
    stages = ("reconstruction", "features", "decoders")
    reconstruction, features, decoders = (costs(load_study(CONFIG), {"neox": shape})[stage] for stage in stages)
    assert (reconstruction.jobs, features.jobs, decoders.jobs) == (2, 2, 2)
    assert features.flop == 2 * 20 * 2 * (2 * 4) * 16
    assert reconstruction.flop == 2 * features.flop
    assert decoders.flop == 2 * 16 * (2 * 2 * (2 * 4) + 2 * 16 * (2 * 4) + 2 * 2 * (4 * 10))
    assert decoders.scratch == 2 * 16 * 2 * 2 * TOKENS * (4 + 4)
    assert decoders.disk == 2 * 16 * 2 * 2 * 4 + decoders.scratch


def test_streamed_activations_cost_no_disk_but_a_pass_for_every_reading() -> None:
    shape = Shape(layers=2, d_model=4, d_mlp=16, vocab_size=10)
    few, many = (
        load_study({**CONFIG, "activations": {**CONFIG["activations"], "mode": "streamed", "rows_per_shard": rows}})
        for rows in (50, 10)
    )
    # Two checkpoints, two runs of three epochs: 100 rows in two shards stay, in ten they are made in every epoch.
    assert costs(few, {"neox": shape})["activations"].flop == 2 * (100 + 2 * (100 + 2 * 20)) * shape.forward_flop(1)
    cost = costs(many, {"neox": shape})["activations"]
    assert cost.flop == 2 * (2 * 100 + 2 * (3 * 100 + 2 * 20)) * shape.forward_flop(1)
    assert (cost.jobs, cost.disk) == (2, 0)
    config = copy.deepcopy(CONFIG)
    config["activations"] |= {"mode": "streamed", "rows_per_shard": 10}
    config["dictionaries"]["cc"]["sweep"] = "together"
    together = costs(load_study(config), {"neox": shape})["activations"]
    assert together.flop == 2 * (2 * 100 + 3 * 100 + 2 * 2 * 20) * shape.forward_flop(1)
    assert readings(few, {"neox": shape})["streamed"].memory == 100 * 2 * 4 * 2
    assert "activations streamed (chosen): 0 GB on disk, up to " in plan_text(few, 1.0)
    assert "activations cached: " in plan_text(few, 1.0)


def test_a_job_that_harvests_holds_all_hooks_of_a_checkpoint_and_the_shard_that_it_writes() -> None:
    shape = Shape(layers=2, d_model=4, d_mlp=16, vocab_size=10)
    config = copy.deepcopy(CONFIG)
    own = config["dictionaries"]["cc"]
    config["dictionaries"]["mlp"] = {**own, "sites": [{"model": "neox", "hooks": ["blocks.1.mlp.hook_post"]}]}
    own["sites"][0]["hooks"] = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    # Shards of 50 rows; 4 + 4 + 16 channels as float32, and once more 16 as float16, or as int8 with a scale.
    memory = 50 * ((4 + 4 + 16) * 4 + 16 * 2)
    assert readings(load_study(config), {"neox": shape})["cached"].memory == memory
    config["activations"]["dtype"] = "int8"
    assert readings(load_study(config), {"neox": shape})["cached"].memory == memory + 50 * (4 - 16)
    assert f"GB on disk, up to {(memory - 600) / 1e9:.3g} GB of memory for a job, " in plan_text(
        load_study(config), 1.0
    )


def test_planted_activations_cost_disk_and_no_model() -> None:
    config = copy.deepcopy(CONFIG)
    config["models"]["neox"] = {"source": "planted", "d_model": 4, "checkpoints": [0, 8]}
    study = load_study(config)
    shape = known_shape(study, "neox")
    assert shape is not None
    harvest, dictionary = (costs(study, {"neox": shape})[stage] for stage in ("activations", "dictionary cc"))
    assert (harvest.stage, harvest.jobs, harvest.disk, harvest.flop) == ("activations", 2 * 3, 2 * 120 * 4 * 2, 0)
    assert dictionary.flop == 2 * 10 * (2 * 4) * 16 * 100 * 3
    assert "nll" not in plan_text(study, 1.0)


def test_model_of_unknown_shape_is_named() -> None:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    config["models"]["neox"] = {"source": "hub", "name": "EleutherAI/pythia-160m", "checkpoints": [0, 8]}
    assert "neox: on the hub (models.neox.shape tells it), of unknown shape, counted as nothing" in plan_text(
        load_study(config), 1.0
    )


def test_a_model_of_the_hub_counts_by_the_shape_that_it_is_told_to_have() -> None:
    trained = load_study(CONFIG)
    shape = known_shape(trained, "neox")
    assert shape is not None
    config = copy.deepcopy(CONFIG)
    config["models"]["neox"] = {
        "source": "hub", "name": "EleutherAI/pythia-160m", "checkpoints": [0, 8], "shape": shape._asdict()
    }  # fmt: skip
    study = load_study(config)
    assert known_shape(study, "neox") == shape
    found = costs(study, {"neox": shape})
    for stage in ("activations", "dictionary cc", "losses"):
        assert found[stage] == costs(trained, {"neox": shape})[stage]
    assert found["checkpoint neox"].disk == 2 * 2 * shape.parameters
    config["dictionaries"]["cc"]["sites"][0]["hooks"] = ["blocks.2.hook_resid_post"]
    with pytest.raises(UserError, match=r"blocks\.2\.hook_resid_post' is in block 2, but the model has 2"):
        load_study(config)


def test_disk_of_tokens_and_scratch_of_stages_are_those_counted_by_hand() -> None:
    shape = Shape(layers=2, d_model=4, d_mlp=16, vocab_size=10)
    config = {**CONFIG, "tokens": {"context_length": 8, "max_tokens": 100}}
    config["dictionaries"] = {"cc": {**CONFIG["dictionaries"]["cc"], "save_every": 10}}
    stages = ("tokens", "dictionary cc", "features")
    tokens, dictionary, features = (costs(load_study(config), {"neox": shape})[stage] for stage in stages)
    assert tokens.disk == 2 * 13 * (8 * 2 + 8)
    assert dictionary.scratch == 2 * 3 * (3 * 4 * (2 * 2 * 4 * 16)), "30 steps: two states kept and a third on its way"
    readings = 16 * (10 + 4 * 3) * 25 * 2
    assert features.disk == 2 * readings
    assert features.scratch == 20 * (2 + 4) * 12 + 2 * 4 * readings
    config["evaluation"] = {"features": {"samples": 1, "quantile_samples": 0, "window": 1}}
    assert costs(load_study(config), {"neox": shape})["features"].scratch == 20 * (2 + 4) * 24
    config["dictionaries"]["cc"]["save_every"] = 1000
    assert costs(load_study(config), {"neox": shape})["dictionary cc"].scratch == dictionary.scratch / 3, (
        "saved only when stopped"
    )


def local(folder: Path, **shape: object) -> dict[str, Any]:
    """Lay out two checkpoints of 1000 and 100 bytes, of which the study reads the second."""
    config = copy.deepcopy(CONFIG)
    for step, size in ((0, 1000), (8, 100)):
        checkpoint = folder / f"step{step}"
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text(json.dumps(shape))
        (checkpoint / "model.safetensors").write_bytes(bytes(size))
        (checkpoint / "pytorch_model.bin").write_bytes(bytes(7))
    config["models"]["neox"] = {"source": "local", "path": f"{folder}/step{{step}}", "checkpoints": [0, 8]}
    config["dictionaries"]["cc"]["sites"][0]["checkpoints"] = [8]
    return config


def test_a_local_checkpoint_takes_the_room_of_its_weights(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 2, "hidden_size": 4, "intermediate_size": 16, "vocab_size": 10}
    study = load_study(local(tmp_path, **shape))
    assert known_shape(study, "neox") == Shape(2, 4, 16, 10)
    checkpoint = costs(study, {})["checkpoint neox"]
    assert (checkpoint.stage, checkpoint.jobs, checkpoint.disk) == ("checkpoint neox", 1, 100)


def test_a_local_config_that_tells_no_shape_is_named(tmp_path: Path) -> None:
    study = load_study(local(tmp_path, num_hidden_layers=2))
    assert "neox: in its config.json, of unknown shape, counted as nothing" in plan_text(study, 1.0)


@pytest.mark.parametrize(
    ("content", "rate", "message"),
    [
        (None, "1", "study.yaml: cannot be read (No such file or directory); expected a study"),
        ("corpus: [", "1", "study.yaml: no YAML: while parsing"),
        ("- corpus", "1", "study.yaml: it holds no keys"),
        ("", "1", "study.yaml: the config is empty"),
        (yaml.safe_dump(CONFIG), "0", "--rate: 0 TFLOP/s; expected what the machine sustains, above 0"),
        (yaml.safe_dump(CONFIG), "nan", "--rate: nan TFLOP/s"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, content: str | None, rate: str, message: str) -> None:
    file = tmp_path / "study.yaml"
    if content is not None:
        file.write_text(content)
    done = command("plan.py", "--config", "study.yaml", "--rate", rate, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_study_says_where_its_results_are(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**CONFIG, "study": "other"}))
    assert command("root.py", "--config", "other.yaml", folder=tmp_path).stdout == "results/other\n"
    done = command("root.py", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: config.yaml: cannot be read")


@pytest.mark.parametrize("rate", [0.1, 100.0])
def test_hours_follow_the_rate(rate: float) -> None:
    study = load_study(yaml.safe_load((PROJECT / "config.yaml").read_text()))
    (total,) = [line.split() for line in plan_text(study, rate).splitlines() if line.startswith("total")]
    assert float(total[-1]) == pytest.approx(float(total[-2]) / rate / 1e12 / 3600, rel=0.01)
