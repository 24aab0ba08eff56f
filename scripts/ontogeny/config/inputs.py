"""What a study finds on disk: the files of its local models."""

import json
from pathlib import Path

from ontogeny.config.models import HubModel, LocalModel, ModelSettings, TrainedModel


def model_files(model: LocalModel, step: int) -> list[str]:
    """List the files of a local checkpoint that decide what it computes."""
    folder = Path(model.path.format(step=step))
    patterns = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
    return [str(file) for pattern in patterns for file in sorted(folder.glob(pattern))]


def layers_of(model: ModelSettings) -> int | None:
    """Count the blocks of a model from its settings or its folder; None where only the hub knows."""
    if isinstance(model, TrainedModel):
        return model.architecture.layers
    if isinstance(model, HubModel):
        return None
    path = Path(model.path.format(step=model.checkpoints[0])) / "config.json"
    if not path.is_file():
        return None
    shape = json.loads(path.read_text())
    return next((int(shape[key]) for key in ("num_hidden_layers", "n_layer") if key in shape), None)


def missing_checkpoint(model: LocalModel) -> Path | None:
    """Find the first listed checkpoint of a local model that has no `config.json` on disk."""
    folders = (Path(model.path.format(step=step)) for step in model.checkpoints)
    return next((folder for folder in folders if not (folder / "config.json").is_file()), None)
