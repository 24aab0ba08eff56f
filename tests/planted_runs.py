"""Planted models, their shards and runs over them, for the tests of known truth."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from ontogeny.activations.planted import write_planted
from ontogeny.activations.rows import COLUMNS, rows_hash
from ontogeny.activations.statistics import write_statistics
from ontogeny.config.dictionaries import RunSettings
from ontogeny.config.load import load_study
from ontogeny.config.models import PlantedModel
from ontogeny.config.study import Study
from ontogeny.crosscoder.model import load_crosscoder
from ontogeny.crosscoder.trainer import train
from ontogeny.hdf5 import write_arrays
from ontogeny.sites import Site

torch.set_num_threads(1)  # on matrices as small as these, threads wait for each other most of the time

HOOK = "blocks.0.hook_resid_post"
CONFIG = Path(__file__).parents[1] / "configs/planted.yaml"


def planted_model(**settings: Any) -> PlantedModel:
    """Describe a planted model as a config does."""
    return PlantedModel.model_validate_json(json.dumps({"source": "planted", "checkpoints": [0], **settings}))


def planted_study(**model: Any) -> Study:
    """Read `configs/planted.yaml` with changes to its model."""
    config = yaml.safe_load(CONFIG.read_text())
    config["models"]["toy"] |= model
    return load_study(config)


def write_rows_file(path: Path, rows: int) -> Path:
    """Write a rows file of token positions that no other shard has."""
    first = int(path.stem.split("-")[1]) * rows
    columns = {name: np.arange(first, first + rows, dtype=np.int32) for name in COLUMNS}
    write_arrays(
        path, columns, {"rows_hash": rows_hash(columns["context"], columns["position"]), "tokens_hash": "f00d"}
    )
    return path


class Trained(NamedTuple):
    """What a run has learnt, on scaled activations."""

    decoder_LSD: NDArray[np.float32]
    scales_S: NDArray[np.float32]


def train_on_planted(folder: Path, study: Study, model: PlantedModel, settings: RunSettings) -> Trained:
    """Write the training shards of a planted model as the pipeline does, and train a run on them."""
    activations = folder / "activations"
    for shard, rows in study.shards("train").items():
        write_rows_file(activations / "rows" / f"{shard}.h5", rows)
    for site in settings.sites:
        paths = [activations / site.key / f"{shard}.h5" for shard in study.shards("train")]
        for path in paths:
            write_planted(model, site, activations / "rows" / path.name, study.activations.dtype, path, None)
        write_statistics(paths, activations / site.key / "statistics.json", None)
    train(settings, activations, folder / "state", folder / "run")
    crosscoder = load_crosscoder(folder / "run")
    return Trained(crosscoder.W_dec.detach().numpy(), crosscoder.scales.numpy())


def site_of(step: int, hook: str = HOOK) -> Site:
    """Name a site of the planted model."""
    return Site("toy", step, hook)
