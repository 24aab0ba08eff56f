"""Checkpoints that exist already: in local folders, as revisions on the Hugging Face hub, or in GGUF files."""

import os
import shutil
import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars

from ontogeny.config.models import GgufSource, HubSource, LocalSource
from ontogeny.errors import UserError
from ontogeny.language_model.checkpoint import new_checkpoint, weight_files
from ontogeny.language_model.gguf import save_gguf_model

SAFETENSORS = ("config.json", "model*.safetensors", "model.safetensors.index.json")
"""Files of a model on the hub that are needed."""

PICKLES = ("config.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Files that are needed where there are no safetensors."""


def bring_checkpoint(
    settings: LocalSource | HubSource | GgufSource,
    step: int,
    tokenizer: Path,
    folder: Path,
    study: Path | None,
    file: Path | None = None,
) -> dict[str, float]:
    """Put a checkpoint that exists already among the study's models, whole or not at all.

    Weights are hard links where the file system permits, and copies elsewhere; those of a GGUF file are unpacked.

    Args:
        settings: where the checkpoints of the model are.
        step: step of the checkpoint.
        tokenizer: `tokenizer.json` in the folder of the study's tokenizer.
        folder: `models/<model>/step<k>/`.
        study: the study's `study.json`.
        file: the GGUF file, if it was found already; its package need not be here then.

    Returns:
        Bytes of the weights.

    Raises:
        UserError: there is no such checkpoint, it is not whole, the hub cannot be reached or refuses, the tokenizer has
            tokens that the model has not, or the disk is full.
    """
    where = f"models.{folder.parent.name}"
    if isinstance(settings, GgufSource):
        with new_checkpoint(folder, tokenizer, study) as new:
            save_gguf_model(file or settings.file(), new, where)
        return {"bytes": float(sum(file.stat().st_size for file in weight_files(folder)))}
    source = _on_hub(settings, step, where) if isinstance(settings, HubSource) else settings.folder(step)
    if not (source / "config.json").is_file():
        raise UserError(f"{where}: there is no model in {source}/ (no config.json); expected one folder per checkpoint")
    files = weight_files(source)
    indices = list(source.glob(f"{files[0].stem.split('-')[0]}{files[0].suffix}.index.json"))
    with new_checkpoint(folder, tokenizer, study) as new:
        shutil.copyfile(source / "config.json", new / "config.json")
        for file in (*files, *indices):
            _link(file.resolve(), new / file.name)
    return {"bytes": float(sum(file.stat().st_size for file in files))}


def _on_hub(settings: HubSource, step: int, where: str) -> Path:
    """Fetch the files of one revision into the hub's own cache, those that are there already not again."""
    revision = settings.revision_of(step)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        folder = Path(snapshot_download(settings.name, revision=revision, allow_patterns=list(SAFETENSORS)))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(settings.name, revision=revision, allow_patterns=list(PICKLES)))
    except GatedRepoError:
        reason = "it is gated: accept its terms on the hub, then `hf auth login`"
    except RevisionNotFoundError:
        reason = f"it has no revision {revision!r}: list in checkpoints only the steps that it has"
    except RepositoryNotFoundError:
        reason = "the hub has no such model, or shows it to others only: check name, or `hf auth login`"
    except HFValidationError:
        reason = "a model id of the hub looks like EleutherAI/pythia-160m"
    except OSError as error:
        reason = f"the hub cannot be reached, and its cache has not all files ({str(error).splitlines()[0]})"
    else:
        return folder
    raise UserError(f"{where}.name: {settings.name!r} at step {step}: {reason}")


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the two places are on different file systems or links are not permitted."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
