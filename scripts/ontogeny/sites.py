"""Sites, and the names under which they are stored."""

from typing import NamedTuple


class Site(NamedTuple):
    """One place to read activations: a hook point of a model at one checkpoint."""

    model: str
    """Name of the model in the study."""
    step: int
    """Training step of the checkpoint."""
    hook: str
    """Hook point by its transformer-lens name, such as `blocks.2.hook_resid_post`."""

    @property
    def checkpoint(self) -> str:
        """Folder of the checkpoint below `models/` and `activations/`: `neox/step512`."""
        return checkpoint_key(self.model, self.step)

    @property
    def key(self) -> str:
        """Folder of the site below `activations/`: `neox/step512/blocks.2.hook_resid_post`."""
        return f"{self.checkpoint}/{self.hook}"


def checkpoint_key(model: str, step: int) -> str:
    """Folder of a checkpoint below `models/` and `activations/`, such as `neox/step512`."""
    return f"{model}/step{step}"


def shard_name(split: str, number: int) -> str:
    """Name of a shard of `split` (`train` or `heldout`), such as `train-00003`."""
    return f"{split}-{number:05d}"
