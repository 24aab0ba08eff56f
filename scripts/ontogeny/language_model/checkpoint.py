"""What a checkpoint looks like on disk: a Hugging Face folder, and a `checkpoint.json` that says what is in it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from ontogeny.errors import UserError
from ontogeny.files import atomic_folder, crc32, write_json
from ontogeny.provenance import provenance
from ontogeny.tokenizer import CONFIG, read_tokenizer

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the better kind first; a model in several files has `<file>.index.json` instead."""


@contextmanager
def new_checkpoint(folder: Path, tokenizer: Path, study: Path | None) -> Iterator[Path]:
    """Yield a folder to put `config.json` and weights into; it becomes the checkpoint when the block ends well.

    The study's tokenizer is put beside them, and `checkpoint.json` last: model, step, architecture, layers, d_model,
    parameters, weights_crc32 of every file of weights, provenance.

    Args:
        folder: `models/<model>/step<k>/`; its names are those of the model and the step.
        tokenizer: `tokenizer.json` in the folder of the study's tokenizer.
        study: the study's `study.json`.

    Raises:
        UserError: weights are missing or damaged, the tokenizer has tokens that the model has not, or the disk is full.
    """
    with atomic_folder(folder) as temporary:
        yield temporary
        for name in (tokenizer.name, CONFIG):
            shutil.copyfile(tokenizer.parent / name, temporary / name)
        names = {"model": folder.parent.name, "step": int(folder.name.removeprefix("step"))}
        record = _describe(temporary, tokenizer, folder.parent.name)
        write_json(temporary / "checkpoint.json", names | record | {"provenance": provenance(study)})


def weight_files(folder: Path) -> list[Path]:
    """Find the files that hold a model's weights, safetensors where there are both kinds.

    Raises:
        UserError: there are none, or not all that the index lists, or one was cut short.
    """
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        files = [folder / name]
        if index.is_file():
            files = [folder / part for part in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        elif not files[0].is_file():
            continue
        for file in files:
            _check_whole(file)
        return files
    raise UserError(
        f"{folder}: there are no weights here; expected {' or '.join(WEIGHTS)}, or the index of several files"
    )


def _check_whole(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file}: no such file, but the index beside it lists it; bring all weights here")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise UserError(f"{file}: its weights cannot be read ({error}); bring this file here again") from error


def _describe(folder: Path, tokenizer: Path, model_name: str) -> dict[str, object]:
    """Say what a folder holds, from its config and from the bytes of its weights."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"models.{model_name}: transformers cannot build its config.json ({reason})") from error
    shape = model.config.get_text_config()
    tokens = read_tokenizer(tokenizer).vocab_size
    if tokens > shape.vocab_size:
        raise UserError(
            f"models.{model_name}: the model knows {shape.vocab_size} tokens, but {tokenizer} has {tokens}; "
            "set tokenizer to the tokenizer of this model"
        )
    return {
        "architecture": type(model).__name__,
        "layers": shape.num_hidden_layers,
        "d_model": shape.hidden_size,
        "parameters": model.num_parameters(),
        "weights_crc32": {file.name: crc32(file) for file in weight_files(folder)},
    }
