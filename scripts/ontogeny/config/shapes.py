"""What is known of a model before it is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ontogeny.config.gguf import gguf_numbers
from ontogeny.config.models import GgufModel, HubModel, ModelSettings, PlantedModel, TrainedModel


class ModelShape(NamedTuple):
    """Shape of a model; None for what only its weights or the hub know."""

    family: str | None = None
    """Architecture as `model_type` of a `config.json` names it, such as `gpt_neox`."""
    layers: int | None = None
    """Blocks."""
    d_model: int | None = None
    """Width of the residual stream."""
    d_mlp: int | None = None
    """Width of the MLP's hidden layer."""
    vocab_size: int | None = None
    """Entries of the vocabulary."""


def model_shape(model: ModelSettings) -> ModelShape:
    """Find the shape of a model in its settings, or in the first of its files.

    Raises:
        ValueError: the file cannot be read (names it).
    """
    if isinstance(model, TrainedModel):
        shape = model.architecture
        return ModelShape("gpt_neox", shape.layers, shape.d_model, shape.d_mlp or 4 * shape.d_model)
    if isinstance(model, PlantedModel):
        return ModelShape(d_model=model.d_model)
    if isinstance(model, HubModel):
        told = model.shape
        return ModelShape(None, told.layers, told.d_model, told.d_mlp, told.vocab_size) if told else ModelShape()
    if isinstance(model, GgufModel):
        return _gguf_shape(model)
    config = _read(model.folder(model.checkpoints[0]) / "config.json")
    width = _number(config, "hidden_size", "n_embd")
    return ModelShape(
        config.get("model_type"),
        _number(config, "num_hidden_layers", "n_layer"),
        width,
        _number(config, "intermediate_size", "n_inner") or (width and 4 * width),
        _number(config, "vocab_size"),
    )


def _gguf_shape(model: GgufModel) -> ModelShape:
    numbers = gguf_numbers(model.file())
    family = str(numbers["general.architecture"])
    keys = ("block_count", "embedding_length", "feed_forward_length", "vocab_size")
    return ModelShape(family, *(_number(numbers, f"{family}.{key}") for key in keys))


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}); bring this checkpoint here again") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds no JSON object; bring this checkpoint here again")
    return config


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    """Take the first of several keys that holds a count; architectures differ in how they name things."""
    return next((config[key] for key in keys if isinstance(config.get(key), int) and config[key] > 0), None)
