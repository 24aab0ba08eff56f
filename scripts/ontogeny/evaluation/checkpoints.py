"""The language models of a dictionary's sites, in memory while it permits."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from ontogeny.errors import UserError
from ontogeny.language_model.bridge import load_model

KEPT_BYTES = 8 * 2**30
"""Parameters, in float32, of models that are kept in memory together."""


class Checkpoints:
    """Models by checkpoint, such as `neox/step512`: all kept where they fit into memory, else the last one used."""

    def __init__(self, models: Path, checkpoints: Sequence[str]) -> None:
        """Look at what the checkpoints weigh.

        Args:
            models: folder of all checkpoints.
            checkpoints: those that will be asked for.

        Raises:
            UserError: a checkpoint is missing.
        """
        self._models = models
        self._loaded: dict[str, TransformerBridge] = {}
        self.all_fit = sum(_parameters(models / name) for name in set(checkpoints)) * 4 <= KEPT_BYTES

    def __getitem__(self, checkpoint: str) -> TransformerBridge:
        """Load a model, or find it loaded."""
        if checkpoint not in self._loaded:
            if not self.all_fit:
                self._loaded.clear()
            self._loaded[checkpoint] = load_model(self._models / checkpoint)
        return self._loaded[checkpoint]


def _parameters(folder: Path) -> int:
    file = folder / "checkpoint.json"
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a saved checkpoint of every site of the dictionary")
    return int(json.loads(file.read_text())["parameters"])
