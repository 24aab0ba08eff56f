"""A change reruns what depends on it, and nothing else: the tables of docs/architecture.md, row by row."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Workspace

TASKS = {"attribution": 1, "attribution_figure": 1, "necessity_sufficiency_figure": 1}
TYPES = {"feature_types": 1, "feature_types_figure": 1, "complexity_figure": 1}
AFTER_CORPUS = {
    **TASKS,
    **TYPES,
    "tokenizer": 1, "tokens": 2, "language_model": 1, "rows": 3, "activations": 12, "statistics": 4, "dictionary": 3,
    "reconstruction": 3, "losses": 3, "nll": 3, "features": 3, "decoders": 3, "database": 3, "pareto_figure": 1, "reconstruction_figure": 1,
    "decoder_norms_figure": 1, "geometry": 1, "evolution_overview_figure": 1, "feature_classes_figure": 1,
    "language_model_figure": 1, "gallery": 1,
    "ngram": 1, "probes": 1, "two_phases_figure": 1, "norm_as_strength_figure": 1,
}  # fmt: skip
CROSSCODER_RUNS = {
    **TASKS,
    **TYPES,
    "dictionary": 2, "reconstruction": 2, "losses": 2, "nll": 2, "features": 2, "decoders": 2, "database": 2,
    "pareto_figure": 1, "reconstruction_figure": 1, "decoder_norms_figure": 1, "geometry": 1, "evolution_overview_figure": 1,
    "feature_classes_figure": 1, "gallery": 1,
    "probes": 1, "norm_as_strength_figure": 1, "two_phases_figure": 1,
}  # fmt: skip
ALL_RUNS = {
    **CROSSCODER_RUNS,
    "dictionary": 3,
    "reconstruction": 3,
    "losses": 3,
    "nll": 3,
    "features": 3,
    "decoders": 3,
    "database": 3,
}


@pytest.fixture(scope="module")
def brought(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A study of a saved corpus, a tokenizer and checkpoints that exist already, up to its models."""
    folder = tmp_path_factory.mktemp("brought")
    site = {"model": "old", "hooks": ["blocks.1.hook_resid_post"]}
    config = {
        "corpus": {"source": "saved", "path": "there/corpus", "split": "train"},
        "tokenizer": {"source": "pretrained", "name": "there/tokenizer"},
        "models": {"old": {"source": "local", "path": "there/neox/step{step}", "checkpoints": [0, 4]}},
        "dictionaries": {"sae": {"sites": [site], "latents": [128], "k": [4]}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    workspace = Workspace(folder, folder / "study.yaml")
    for part in ("corpus", "tokenizer", "models/neox"):
        shutil.copytree(finished.folder / "results" / part, folder / "there" / Path(part).name)
    done = workspace.snakemake("results/models/")
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


def test_one_more_checkpoint_that_exists_brings_in_only_that_one(brought: Workspace) -> None:
    assert brought.planned("results/models/")[0] == Counter()
    with brought.changed("models", "old", "checkpoints", value=[0, 4, 16]):
        planned, output = brought.planned("results/models/")
    assert planned == Counter({"checkpoint": 1})
    assert "step=16" in output


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        ("corpus/train/state.json", '"_fingerprint": "', '"_fingerprint": "0', {"corpus": 1, "tokenizer": 1, "checkpoint": 2}),
        ("corpus/heldout/state.json", '"_fingerprint": "', '"_fingerprint": "0', {}),
        ("tokenizer/tokenizer.json", "{", '{ "edited": 1,', {"tokenizer": 1, "checkpoint": 2}),
        ("neox/step4/config.json", "{", '{ "edited": 1,', {"checkpoint": 1}),
    ],
)  # fmt: skip
def test_change_of_what_exists_already(
    brought: Workspace, file: str, before: str, after: str, expected: dict[str, int]
) -> None:
    with brought.edited(f"there/{file}", before, after):
        assert brought.planned("results/models/")[0] == Counter(expected)


def test_finished_study_has_nothing_to_do(finished: Workspace) -> None:
    assert finished.planned()[0] == Counter()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("figures", "decoder_norms", "colormap"), "viridis", {"decoder_norms_figure": 1, "gallery": 1}),
        (("evaluation", "features", "emergence_threshold"), 0.4,
         {**TYPES, "features": 3, "decoders": 3, "geometry": 1, "decoder_norms_figure": 1, "evolution_overview_figure": 1,
          "feature_classes_figure": 1, "two_phases_figure": 1, "probes": 1, "norm_as_strength_figure": 1, "database": 3,
          "gallery": 1}),
        (("figures", "pareto", "height"), 50.0, {"pareto_figure": 1, "gallery": 1}),
        (("evaluation", "nll", "tokens"), 1024, {"losses": 3, "nll": 3, "reconstruction_figure": 1, "database": 3, "gallery": 1}),
        (("evaluation", "ngram", "tokens"), 1024, {"ngram": 1, "two_phases_figure": 1, "gallery": 1}),
        (("evaluation", "probes", "features"), 64, {"probes": 1, "norm_as_strength_figure": 1, "gallery": 1}),
        (("figures", "two_phases", "warmup_steps"), 4, {"two_phases_figure": 1, "gallery": 1}),
        (("evaluation", "tasks", "items"), 32, {**TASKS, "database": 1, "gallery": 1}),
        (("evaluation", "feature_types", "context"), 4, {**TYPES, "database": 1, "gallery": 1}),
        (("database", "uri"), "mongodb://localhost:27017", {"database": 3}),
        (
            ("dictionaries", "crosscoder", "k"),
            [4, 8, 16],
            {"dictionary": 1, "reconstruction": 1, "losses": 1, "nll": 1, "features": 1, "decoders": 1, "database": 1,
             "pareto_figure": 1, "reconstruction_figure": 1, "gallery": 1},
        ),
        (("dictionaries", "crosscoder", "learning_rate"), 1e-3, CROSSCODER_RUNS),
        (("tokenizer", "vocab_size"), 600, AFTER_CORPUS),
    ],
)  # fmt: skip
def test_change_of_config(finished: Workspace, path: tuple[str], value: Any, expected: dict[str, int]) -> None:
    with finished.changed(*path, value=value):
        assert finished.planned()[0] == Counter(expected)


@pytest.mark.parametrize(
    ("file", "path", "value", "expected"),
    [
        ("dictionaries/crosscoder", ("dictionaries", "crosscoder", "learning_rate"), 1e-3, CROSSCODER_RUNS),
        ("figures/pareto.pdf", ("figures", "pareto", "height"), 50.0, {"pareto_figure": 1, "gallery": 1}),
        ("models/neox/training.csv", ("models", "neox", "training", "learning_rate"), 1e-3,
         {name: count for name, count in AFTER_CORPUS.items() if name not in ("tokenizer", "tokens", "rows")}),
    ],
)  # fmt: skip
def test_what_failed_after_a_change_is_made_by_the_next_call(
    finished: Workspace, tmp_path: Path, file: str, path: tuple[str], value: Any, expected: dict[str, int]
) -> None:
    """Snakemake has removed the old files by then, and what was made of them is still there."""
    there = finished.folder / "results" / file
    with finished.changed(*path, value=value):
        shutil.move(there, tmp_path / "removed")
        try:
            assert finished.planned()[0] == Counter(expected)
        finally:
            shutil.move(tmp_path / "removed", there)


def test_one_more_checkpoint_reads_only_that_checkpoint(finished: Workspace) -> None:
    with finished.changed("dictionaries", "crosscoder", "sites", 0, "checkpoints", value=[0, 1, 4, 16, 64]):
        planned, output = finished.planned()
    assert planned == Counter({**CROSSCODER_RUNS, "ngram": 1, "activations": 3, "statistics": 1})
    assert "checkpoint=neox/step1," in output
    assert "checkpoint=neox/step4," not in output


def test_more_activation_tokens_read_only_additional_shards(finished: Workspace) -> None:
    with finished.changed("activations", "train_rows", value=24576):
        planned, output = finished.planned()
    assert planned == Counter({**ALL_RUNS, "rows": 1, "activations": 4, "statistics": 4})
    assert "number=00002" in output
    assert "number=00001" not in output


def test_machine_and_comments_rerun_nothing(finished: Workspace) -> None:
    config = finished.folder / "config.yaml"
    with finished.edited("config.yaml", "corpus:", "# a remark\ncorpus:"):
        assert finished.planned()[0] == Counter()
    assert yaml.safe_load(config.read_text())
    with finished.edited("profiles/local/config.yaml", "cores: all", "cores: 1"):
        assert finished.planned()[0] == Counter()
    resources = ("--set-threads", "dictionary=1", "--set-resources", "nll:mem_mb=100", "dictionary:processes=2")
    assert finished.planned("results/figures/", *resources)[0] == Counter()


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        ("scripts/ontogeny/crosscoder/loss.py", "\ndef ", "\n_EDITED = 1\n\n\ndef ", ALL_RUNS),
        ("scripts/ontogeny/crosscoder/loss.py", '"""', '"""Edited. ', {}),
        ("scripts/ontogeny/crosscoder/loss.py", "\ndef ", "\n# edited\ndef ", {}),
        (
            "scripts/ontogeny/crosscoder/loss.py",
            "\ndef ",
            "\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from fractions import Fraction\n\n\ndef ",
            {},
        ),
        (
            "scripts/ontogeny/figures/pareto.py",
            "\ndef ",
            "\n_EDITED = 1\n\n\ndef ",
            {"pareto_figure": 1, "gallery": 1},
        ),
    ],
)
def test_edit_of_code(finished: Workspace, file: str, before: str, after: str, expected: dict[str, int]) -> None:
    with finished.edited(file, before, after):
        assert finished.planned()[0] == Counter(expected)


def test_touching_files_reruns_nothing(finished: Workspace) -> None:
    for file in Path(finished.folder, "scripts").rglob("*.py"):
        file.touch()
    assert finished.planned()[0] == Counter()
