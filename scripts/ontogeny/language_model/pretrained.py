"""The weights of a checkpoint on disk."""

from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from ontogeny.errors import UserError


def pretrained_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load the weights of a checkpoint as they are on disk.

    Args:
        folder: a checkpoint's folder, as in `models/<model>/step<k>/`.
        dtype: type of the weights in memory.

    Raises:
        UserError: the folder holds no model, or not all of its weights.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: there is no model here (no config.json); expected the folder of a checkpoint")
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: its weights cannot be read ({error}); make the checkpoint again") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} weights are missing, such as {missing[0]}; make the checkpoint again"
        )
    return model
