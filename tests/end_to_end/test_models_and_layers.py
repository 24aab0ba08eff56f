"""The studies of two models and of the layers of one, at a small scale."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from .conftest import PROJECT, Workspace

TRAINING = {"steps": 24, "batch_size": 8, "warmup_steps": 4, "heldout_tokens": 2048, "precision": "float32"}
SCALE = {"learning_rate": 3e-3, "batch_size": 256, "epochs": 2, "precision": "float32"}


def shrunk(folder: Path, name: str) -> Workspace:
    """Copy the project with a config of the repository, made small."""
    workspace = Workspace(folder, PROJECT / f"configs/{name}.yaml")
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    config["corpus"]["max_documents"] = 40
    config["tokenizer"]["vocab_size"] = 512
    config["tokens"]["context_length"] = 32
    config["activations"] = {"train_rows": 8192, "heldout_rows": 2048, "rows_per_shard": 8192}
    config["evaluation"] = {
        "nll": {"tokens": 1024},
        "tasks": {"items": 16, "integration_steps": 2, "ks": [4]},
        "probes": {"features": 16},
        "feature_types": {"features": 16, "sequences": 4, "samples": 2},
    }
    config["figures"] = {}
    for model in config["models"].values():
        model["training"] |= TRAINING
        model["checkpoints"] = [0, 24]
        model["architecture"] = {"layers": 3, "d_model": 32, "heads": 2}
    for dictionary in config["dictionaries"].values():
        dictionary |= {**SCALE, "latents": [96]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return workspace


def edited(workspace: Workspace, config: dict[str, Any]) -> None:
    (workspace.folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = shrunk(tmp_path_factory.mktemp("models"), "model-diff-small")
    config = yaml.safe_load((workspace.folder / "config.yaml").read_text())
    config["models"]["tuned"]["start"]["step"] = 24
    for dictionary in config["dictionaries"].values():
        for selection in dictionary["sites"]:
            selection["hooks"] = ["blocks.1.hook_resid_post"]
    config["dictionaries"]["batchtopk"] |= {"k": [8], "dead": {}}
    edited(workspace, config)
    done = workspace.snakemake("results/model-diff-small/figures/")
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = shrunk(tmp_path_factory.mktemp("layers"), "cross-layer-small")
    config = yaml.safe_load((workspace.folder / "config.yaml").read_text())
    kept = {name: config["dictionaries"][name] for name in ("crosscoder", "sae-0", "sae-2")}
    kept["crosscoder"]["sites"][0]["hooks"] = [f"blocks.{block}.hook_resid_post" for block in range(3)]
    for dictionary in kept.values():
        dictionary["sparsity"] = [1.0, 3.0]
    config["dictionaries"] = kept
    edited(workspace, config)
    done = workspace.snakemake("results/cross-layer-small/figures/")
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


def weights(workspace: Workspace, checkpoint: str) -> dict[str, Any]:
    return load_file(workspace.folder / f"results/model-diff-small/models/{checkpoint}/model.safetensors")


def test_the_tuned_model_begins_where_the_base_ends(two_models: Workspace) -> None:
    base, tuned = weights(two_models, "base/step24"), weights(two_models, "tuned/step0")
    assert all(tuned[name].equal(weight) for name, weight in base.items())
    assert any(not weights(two_models, "tuned/step24")[name].equal(weight) for name, weight in base.items())


def test_two_models_are_compared_by_every_dictionary(two_models: Workspace) -> None:
    metrics = two_models.folder / "results/model-diff-small/metrics"
    tables = {file.parent.parent.name: pd.read_csv(file) for file in metrics.glob("*/*/model_diff.csv")}
    assert set(tables) == {"batchtopk", "l1", "l1-shared"}
    for name, table in tables.items():
        assert set(table.model_a) == {"base"}
        assert set(table.model_b) == {"tuned"}
        assert table.relative_norm.to_numpy() == pytest.approx(table.norm_b / (table.norm_a + table.norm_b))
        assert table.norm_difference.between(0, 1).all()
        assert table.designated.any() == (name == "l1-shared")
    shared = tables["l1-shared"][tables["l1-shared"].designated]
    assert (shared.relative_norm == 0.5).all()
    assert shared.cosine.to_numpy() == pytest.approx(1)
    assert (shared.feature < 24).all()
    numbers = pd.read_csv(two_models.folder / "results/model-diff-small/figures/model_diff.csv")
    assert set(numbers[numbers.panel == "recovered"].model) == {"base", "tuned"}
    assert numbers[(numbers.panel == "recovered") & (numbers.series == "zero ablation")].value.gt(0.2).all()


def test_every_figure_of_two_models_and_of_layers_is_drawn(two_models: Workspace, layers: Workspace) -> None:
    for workspace, study, own in (
        (two_models, "model-diff-small", "model_diff"),
        (layers, "cross-layer-small", "layers"),
    ):
        figures = workspace.folder / f"results/{study}/figures"
        drawn = {file.stem for file in figures.glob("*.pdf")}
        assert drawn >= {own, "attribution", "necessity_sufficiency", "pareto", "reconstruction", "language_model"}
        assert (figures / "index.html").is_file()


def test_what_a_tuned_model_reads_is_no_matter_of_its_base(two_models: Workspace) -> None:
    target = "results/model-diff-small/models/"
    assert two_models.planned(target)[0] == Counter()
    with two_models.changed("models", "tuned", "training", "documents", value=[0.25, 1.0]):
        assert two_models.planned(target)[0] == Counter({"language_model_2": 1})
    with two_models.changed("models", "base", "training", "documents", value=[0.0, 0.25]):
        assert two_models.planned(target)[0] == Counter({"language_model": 1, "language_model_2": 1})


def test_the_price_of_shared_features_is_that_of_their_dictionary_alone(two_models: Workspace) -> None:
    with two_models.changed("dictionaries", "l1-shared", "shared", value={"share": 0.25, "sparsity": 0.5}):
        planned, _ = two_models.planned("results/model-diff-small/figures/model_diff.pdf")
    assert planned == Counter(
        {"dictionary": 1, "features": 1, "losses": 2, "nll": 2, "model_diff": 1, "model_diff_figure": 1}
    )


def test_layers_are_compared_with_their_saes(layers: Workspace) -> None:
    numbers = pd.read_csv(layers.folder / "results/cross-layer-small/figures/layers.csv")
    assert numbers[numbers.panel == "span"].value.sum() == numbers[numbers.panel == "span"].total.iloc[0]
    cost = numbers[numbers.panel == "cost"].groupby(["kind", "hook"]).size()
    assert cost["crosscoder"].tolist() == [2, 2, 2]
    assert cost["SAE of the layer"].tolist() == [2, 2]
    assert (layers.folder / "results/cross-layer-small/figures/layers.png").stat().st_size > 10_000
