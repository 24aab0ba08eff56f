"""The study of "Evolution of Concepts" on checkpoints in local folders, saved as the hub has them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from .conftest import PROJECT, Workspace
from .test_tiny_study import FIGURES

STEPS = [0, 143000]


def write_checkpoints(folder: Path, tokenizer: Path) -> None:
    """Save two GPT-NeoX of seven blocks, with their tokenizer, as Pythia's revisions are laid out."""
    shared = AutoTokenizer.from_pretrained(tokenizer)
    for seed, step in enumerate(STEPS):
        torch.manual_seed(seed)
        shape = {"hidden_size": 16, "num_hidden_layers": 7, "num_attention_heads": 2, "intermediate_size": 64}
        config = GPTNeoXConfig(vocab_size=len(shared), max_position_embeddings=64, **shape)
        GPTNeoXForCausalLM(config).save_pretrained(folder / f"step{step}")
        shared.save_pretrained(folder / f"step{step}")


def shrunk(finished: Path, folder: Path) -> dict[str, Any]:
    """Make the config of the paper's study small, with local checkpoints and a folder of `save_to_disk`."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "configs/evolution-pythia-160m.yaml").read_text())
    config["corpus"] = {"source": "saved", "path": str(finished / "results/corpus"), "split": "train", "heldout": 0.2}
    config["tokenizer"] = {"source": "pretrained", "name": str(folder / "step0")}
    config["tokens"] = {"context_length": 64}
    config["models"]["pythia"] = {"source": "local", "path": f"{folder}/step{{step}}", "checkpoints": STEPS}
    config["activations"] = {"train_rows": 4096, "heldout_rows": 1024, "rows_per_shard": 2048}
    for dictionary in config["dictionaries"].values():
        dictionary |= {"latents": [64], "sparsity": [0.3], "batch_size": 256, "learning_rate": 1e-3}
    config["evaluation"] = {
        "nll": {"tokens": 512, "parts": 2},
        "ngram": {"tokens": 512},
        "tasks": {"items": 4, "integration_steps": 2, "ks": [4]},
        "probes": {"features": 16},
        "feature_types": {"features": 16, "sequences": 4, "samples": 2},
    }
    config["figures"]["run"] = ["crosscoder", "latents64-sparsity0.3-seed0"]
    return config


@pytest.fixture(scope="module")
def results(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pythia")
    write_checkpoints(folder, finished.folder / "results/tokenizer")
    (folder / "study.yaml").write_text(yaml.safe_dump(shrunk(finished.folder, folder)))
    (folder / "project").mkdir()
    workspace = Workspace(folder / "project", folder / "study.yaml")
    done = workspace.snakemake(*(f"results/evolution-pythia-160m/{stage}/" for stage in ("figures", "database")))
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace.folder / "results/evolution-pythia-160m"


def test_every_figure_of_the_paper_is_drawn(results: Path) -> None:
    drawn = {file.stem for file in (results / "figures").glob("*.pdf")}
    assert drawn >= {*FIGURES} - {"language_model"}
    assert "language_model" not in drawn


def test_the_papers_gate_has_an_l0_at_each_checkpoint(results: Path) -> None:
    table = pd.read_csv(results / "metrics/crosscoder/latents64-sparsity0.3-seed0/reconstruction.csv")
    at_sites = table[table["step"].notna()].set_index(["metric", "step"])["value"]
    assert list(at_sites["l0"].index) == STEPS
    assert at_sites["fvu"].between(0, 1.5).all()
    losses = pd.read_csv(results / "metrics/crosscoder/latents64-sparsity0.3-seed0/nll-pythia.csv")
    assert set(losses["step"]) == set(STEPS)
