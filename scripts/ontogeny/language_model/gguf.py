"""Models and tokenizers out of GGUF files, in the layout of Hugging Face."""

import struct
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ontogeny.errors import UserError, first_line
from ontogeny.tensors import system_errors

OF_THE_FILE = ("quantization_config", "_name_or_path")
"""Keys of a config that say where its weights came from, and nothing about the model."""


UNREADABLE = (OSError, ValueError, KeyError, ImportError, struct.error)
"""What `transformers` raises for a file that it cannot read, or that was cut short."""


def save_gguf_model(file: Path, folder: Path, where: str) -> None:
    """Write `config.json` and `model.safetensors`: the weights as numbers, whatever the file packs them into.

    Args:
        file: the GGUF file.
        folder: where to write.
        where: place of the model in the study, for messages.

    Raises:
        UserError: `transformers` cannot read the file, or the disk is full.
    """
    transformers.utils.logging.disable_progress_bar()
    try:
        packed = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
        )
    except UNREADABLE as error:
        raise UserError(
            f"{where}.path: {file}: transformers cannot read this model ({first_line(error)}); take another file"
        ) from error
    settings = {key: value for key, value in packed.config.to_dict().items() if key not in OF_THE_FILE}
    # A model that was read from a GGUF file refuses to be saved; one with the same weights does not.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    model.load_state_dict(packed.state_dict(), assign=True)
    model.tie_weights()
    with system_errors():
        model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def save_gguf_tokenizer(file: Path, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Args:
        file: the GGUF file.
        folder: where to write.

    Raises:
        UserError: `transformers` cannot read the tokenizer.
    """
    try:
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True).save_pretrained(folder)
    except UNREADABLE as error:
        raise UserError(
            f"tokenizer.path: {file}: transformers cannot read its tokenizer ({first_line(error)}); take another file"
        ) from error
