"""What a study finds on disk: the files of its local models."""

from pathlib import Path

from ontogeny.config.models import GgufModel, LocalModel


def model_files(model: LocalModel | GgufModel, step: int) -> list[str]:
    """List the files of a local checkpoint that decide what it computes."""
    if isinstance(model, GgufModel):
        return [str(model.file())]
    folder = model.folder(step)
    patterns = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
    return [str(file) for pattern in patterns for file in sorted(folder.glob(pattern))]


def missing_checkpoint(model: LocalModel) -> Path | None:
    """Find the first listed checkpoint of a local model that has no `config.json` on disk."""
    folders = (model.folder(step) for step in model.checkpoints)
    return next((folder for folder in folders if not (folder / "config.json").is_file()), None)
