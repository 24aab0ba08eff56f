"""What a study finds on disk: the files of its local models."""

from collections.abc import Iterator
from pathlib import Path

from ontogeny.config.models import GgufModel, LocalModel, ModelSettings, TrainedModel


def model_files(model: LocalModel, step: int) -> list[str]:
    """List the files of a local checkpoint that decide what it computes."""
    folder = model.folder(step)
    patterns = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
    return [str(file) for pattern in patterns for file in sorted(folder.glob(pattern))]


def missing_checkpoint(model: LocalModel) -> Path | None:
    """Find the first listed checkpoint of a local model that has no `config.json` on disk."""
    folders = (model.folder(step) for step in model.checkpoints)
    return next((folder for folder in folders if not (folder / "config.json").is_file()), None)


def model_problems(where: str, model: ModelSettings) -> Iterator[str]:
    """Say what is wrong with a model, or missing of it on disk; `where` is its place in the study."""
    if isinstance(model, TrainedModel):
        shape, steps = model.architecture, model.training.steps
        if shape.d_model % shape.heads:
            yield f"{where}.architecture: {shape.heads} heads do not divide d_model {shape.d_model}"
        if model.checkpoints[-1] > steps:
            yield f"{where}.checkpoints: step {model.checkpoints[-1]} is after the last training step, {steps}"
    if isinstance(model, GgufModel):
        yield from model.problems(where)
    if isinstance(model, LocalModel):
        folder = missing_checkpoint(model)
        if folder:
            yield f"{where}.path: there is no model in {folder}/ (no config.json); expected one folder per checkpoint"
