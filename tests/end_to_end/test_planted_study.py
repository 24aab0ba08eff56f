"""The study of known truth: the graph of every other study without a language model and its losses."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from .conftest import PROJECT, Workspace

STAGES = ("features", "figures", "database", "models", "metrics")
HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, PROJECT / "configs/planted.yaml")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two checkpoints of the planted model, and one shard of rows to train on."""
    workspace = Workspace(tmp_path_factory.mktemp("small"), PROJECT / "configs/planted.yaml")
    config = yaml.safe_load((workspace.folder / "config.yaml").read_text())
    config["models"]["toy"] |= {"checkpoints": [0, 4], "rotating": 0.0}
    config["activations"]["train_rows"] = 32768
    (workspace.folder / "config.yaml").write_text(yaml.safe_dump(config))
    return workspace


def targets() -> list[str]:
    return [f"results/planted/{stage}/" for stage in STAGES]


def test_no_job_needs_a_language_model(workspace: Workspace) -> None:
    planned, output = workspace.planned(*targets())
    assert planned == Counter(
        {"corpus": 1, "tokenizer": 1, "tokens": 2, "rows": 3, "truth": 1, "directions": 1, "planted": 24, "statistics": 8,
         "dictionary": 3, "reconstruction": 3, "recovery": 3, "features": 3, "decoders": 3, "database": 3, "pareto_figure": 1, "reconstruction_figure": 1, "decoder_norms_figure": 1,
         "geometry": 3, "evolution_overview_figure": 1, "feature_classes_figure": 1, "probes": 1,
         "norm_as_strength_figure": 1, "gallery": 1}
    )  # fmt: skip
    assert "nll-" not in output
    assert "checkpoint.json" not in output


def test_runs_that_are_compared_are_matched_with_the_featured_one(workspace: Workspace) -> None:
    with (
        workspace.changed("dictionaries", "crosscoder", "seeds", value=[0, 1]),
        workspace.changed("evaluation", value={"matching": {"against": ["crosscoder"]}}),
    ):
        planned, output = workspace.planned("results/planted/figures/")
    assert (planned["dictionary"], planned["matching"], planned["robustness_figure"]) == (6, 1, 1)
    assert "decoders" not in planned, "no figure needs it"
    run = "latents96-sparsity0.5-seed"
    assert f"metrics/crosscoder/{run}0/matching/crosscoder/{run}1/pairs.csv" in output


def test_one_job_trains_a_sweep_and_one_measures_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, PROJECT / "configs/superposition-small.yaml")
    targets = [f"results/superposition-small/{stage}/" for stage in ("figures", "models")]
    text = {"corpus": 1, "tokenizer": 1, "tokens": 2}
    made = {**text, "rows": 5, "truth": 1, "directions": 1, "planted": 5, "statistics": 1}
    drawn = {"superposition": 1, "superposition_figure": 1, "gallery": 1}
    assert workspace.planned(*targets)[0] == Counter({**made, "sweep": 1, **drawn})
    with workspace.changed("dictionaries", "sae", "seeds", value=[0, -1]):
        assert workspace.planned(*targets)[0] == Counter({**made, "sweep": 2, **drawn})
    with workspace.changed("dictionaries", "sae", "sweep", value="apart"):
        planned, _ = workspace.planned("results/superposition-small/metrics/")
        runs = 7 * 17
        assert (planned["dictionary"], planned["reconstruction"], planned["recovery"]) == (runs, runs, runs)
        assert planned["superposition"] == planned["sweep"] == 0


def test_truth_and_shards_are_made_without_a_dictionary(small: Workspace) -> None:
    shard = f"results/planted/activations/toy/step4/{HOOK}/heldout-00000.h5"
    done = small.snakemake(shard)
    assert done.returncode == 0, done.stderr
    assert (small.folder / shard).is_file()
    model = small.folder / "results/planted/models/toy"
    assert {file.name for file in model.rglob("*") if file.is_file()} == {"truth.csv", f"{HOOK}.safetensors"}

    again, _ = small.planned(shard)
    assert again == Counter()
    with small.changed("models", "toy", "noise", value=0.1):
        assert small.planned(shard)[0] == Counter({"truth": 1, "directions": 1, "planted": 1})
    sites = [{"model": "toy", "hooks": [HOOK, "blocks.1.hook_resid_post"]}]
    with small.changed("dictionaries", "crosscoder", "sites", value=sites):
        assert small.planned(shard, "results/planted/models/")[0] == Counter({"directions": 1})


def test_a_run_is_compared_with_what_was_planted(small: Workspace) -> None:
    table = "results/planted/metrics/crosscoder/latents96-sparsity0.5-seed0/recovery-toy.csv"
    done = small.snakemake(table)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(small.folder / table).set_index("metric")["value"]
    assert found["recovered_features"] > 0.7, "with two checkpoints of eight and half of the rows"
    assert found["mmcs_planted"] > 0.9
    assert min(found["emergence_exact"], found["death_exact"]) > 0.95
    with small.changed("evaluation", "features", "emergence_threshold", value=0.4):
        assert small.planned(table)[0] == Counter({"recovery": 1})


def test_decoders_lie_as_they_were_planted(small: Workspace) -> None:
    """No planted feature turns here, and none promotes a token."""
    folder = "results/planted/features/crosscoder/latents96-sparsity0.5-seed0"
    done = small.snakemake(f"{folder}/decoders.parquet")
    assert done.returncode == 0, done.stderr
    table, known = (pd.read_parquet(small.folder / folder / f"{name}.parquet") for name in ("decoders", "features"))
    there = ~known.dead & (known.normalised_norm.map(min) > 0.5)
    assert there.sum() > 10
    assert table.rotation[there].map(lambda cosines: cosines[1]).median() > 0.95
    assert {len(tokens) for promoted in table.promoted for tokens in promoted} == {0}
    assert table.promoted.map(len).eq(2).all(), "a list for each site"
