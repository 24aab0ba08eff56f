"""The study of known truth: the graph of every other study without a language model and its losses."""

from collections import Counter
from pathlib import Path

import pytest

from .conftest import PROJECT, Workspace

STAGES = ("figures", "database", "models", "metrics")
HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, PROJECT / "configs/planted.yaml")


def targets() -> list[str]:
    return [f"results/planted/{stage}/" for stage in STAGES]


def test_no_job_needs_a_language_model(workspace: Workspace) -> None:
    planned, output = workspace.planned(*targets())
    assert planned == Counter(
        {"corpus": 1, "tokenizer": 1, "tokens": 2, "rows": 3, "truth": 1, "directions": 1, "planted": 24, "statistics": 8,
         "dictionary": 3, "reconstruction": 3, "features": 3, "database": 3, "pareto_figure": 1, "reconstruction_figure": 1, "decoder_norms_figure": 1,
         "gallery": 1}
    )  # fmt: skip
    assert "nll-" not in output
    assert "checkpoint.json" not in output


def test_truth_and_shards_are_made_without_a_dictionary(workspace: Workspace) -> None:
    shard = f"results/planted/activations/toy/step4/{HOOK}/heldout-00000.h5"
    done = workspace.snakemake(shard)
    assert done.returncode == 0, done.stderr
    assert (workspace.folder / shard).is_file()
    model = workspace.folder / "results/planted/models/toy"
    assert {file.name for file in model.rglob("*") if file.is_file()} == {"truth.csv", f"{HOOK}.safetensors"}

    again, _ = workspace.planned(shard)
    assert again == Counter()
    with workspace.changed("models", "toy", "noise", value=0.1):
        assert workspace.planned(shard)[0] == Counter({"truth": 1, "directions": 1, "planted": 1})
    sites = [{"model": "toy", "hooks": [HOOK, "blocks.1.hook_resid_post"]}]
    with workspace.changed("dictionaries", "crosscoder", "sites", value=sites):
        assert workspace.planned(shard, "results/planted/models/")[0] == Counter({"directions": 1})
