"""What a study finds on disk: the files of its corpus and of its local models."""

import json
from collections.abc import Iterator
from glob import glob
from pathlib import Path

from ontogeny.config.corpus import CorpusSettings, FilesCorpus, SavedCorpus
from ontogeny.config.models import HubModel, LocalModel, ModelSettings, TrainedModel


def corpus_files(corpus: CorpusSettings) -> list[str]:
    """List the files that the corpus is read from; none for a package or the hub."""
    if isinstance(corpus, FilesCorpus):
        return [file for pattern in corpus.paths for file in sorted(glob(pattern, recursive=True))]
    if isinstance(corpus, SavedCorpus):
        return [file for file in _descriptions(corpus) if Path(file).is_file()]
    return []


def corpus_problems(corpus: CorpusSettings) -> Iterator[str]:
    """Say what is missing on disk of the corpus."""
    if isinstance(corpus, FilesCorpus):
        for pattern in corpus.paths:
            if not glob(pattern, recursive=True):
                yield f"corpus.paths: no file matches {pattern!r}"
    if isinstance(corpus, SavedCorpus) and not corpus_files(corpus):
        yield f"corpus.path: {corpus.path}/ is no folder that `datasets` wrote with save_to_disk"


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


def _descriptions(corpus: SavedCorpus) -> tuple[str, str]:
    return f"{corpus.path}/dataset_dict.json", f"{corpus.path}/state.json"
