"""Language models: trained here, in a local folder, or on the hub."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ontogeny.config.base import Count, NonNegative, Positive, Settings


def _ascending(steps: tuple[int, ...]) -> tuple[int, ...]:
    if list(steps) != sorted(set(steps)):
        raise ValueError(f"steps must be ascending and distinct, not {list(steps)}")
    return steps


Steps = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_ascending)]


STEP = "{step}"
"""What stands for the step in a path or a revision."""


class Architecture(Settings):
    """A GPT-NeoX (rotary positions, parallel attention and MLP), as in Pythia."""

    layers: Count = 4
    """Blocks."""
    d_model: Count = 128
    """Width of the residual stream."""
    heads: Count = 4
    """Attention heads of a block; they divide `d_model`."""
    d_mlp: Count | None = None
    """Width of the MLP's hidden layer; four times `d_model` by default."""
    rotary_fraction: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of a head's dimensions that carry rotary positions; it makes an even number of them."""

    @model_validator(mode="after")
    def _check(self) -> "Architecture":
        width = self.d_model // self.heads
        rotary = int(width * self.rotary_fraction)
        if self.d_model % self.heads == 0 and (rotary % 2 or rotary == 0):
            raise ValueError(
                f"rotary_fraction {self.rotary_fraction:g} of a head's {width} dimensions makes {rotary}, "
                "but rotary positions need an even number of at least 2"
            )
        return self


class Training(Settings):
    """AdamW on the training contexts, in a seeded order, with linear warm-up and cosine decay."""

    steps: Count = 1000
    """Optimiser steps."""
    batch_size: Count = 16
    """Contexts a step."""
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    final_learning_rate: NonNegative = 1e-4
    """Learning rate that the cosine ends at."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of matrices."""
    gradient_clip: Positive = 1.0
    """Largest norm of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the factors in matrix products while training; weights, and the heldout loss, are float32."""
    heldout_tokens: Count = 32768
    """Heldout tokens on which the loss of every saved checkpoint is measured."""
    log_every: Count = 10
    """Steps between two rows of `training.csv`."""


class TrainedModel(Settings):
    """A model trained by this pipeline on the study's own tokens."""

    source: Literal["train"]
    """Kind of model."""
    checkpoints: Steps
    """Steps at which the model is saved; 0 is the model before training."""
    architecture: Architecture = Architecture()
    """Shape of the model."""
    training: Training = Training()
    """How it is trained."""


class LocalSource(Settings):
    """Hugging Face folders on disk."""

    source: Literal["local"]
    """Kind of model."""
    path: str
    """Folder of a checkpoint; `{step}` in it stands for the step, as in `models/pythia/step{step}`."""

    def folder(self, step: int) -> Path:
        """Name the folder of a checkpoint."""
        return Path(_of_step(self.path, step))


class LocalModel(LocalSource):
    """Hugging Face folders on disk."""

    checkpoints: Steps
    """Steps that exist on disk."""

    @model_validator(mode="after")
    def _check(self) -> "LocalModel":
        _check_steps("path", self.path, self.checkpoints)
        return self


class HubSource(Settings):
    """A model of the Hugging Face hub with one revision per checkpoint."""

    source: Literal["hub"]
    """Kind of model."""
    name: str
    """Model id, such as `EleutherAI/pythia-160m`."""
    revision: str = "step{step}"
    """Revision of a checkpoint; `{step}` stands for the step."""

    def revision_of(self, step: int) -> str:
        """Name the revision of a checkpoint."""
        return _of_step(self.revision, step)


class HubModel(HubSource):
    """A model of the Hugging Face hub with one revision per checkpoint."""

    checkpoints: Steps
    """Steps that the hub holds."""

    @model_validator(mode="after")
    def _check(self) -> "HubModel":
        _check_steps("revision", self.revision, self.checkpoints)
        return self


ModelSettings = Annotated[TrainedModel | LocalModel | HubModel, Field(discriminator="source")]

CheckpointSource = Annotated[LocalSource | HubSource, Field(discriminator="source")]
"""Where a checkpoint comes from; which steps the study reads is no part of it."""


def _of_step(pattern: str, step: int) -> str:
    """Put a step into a pattern; all other braces are part of a name."""
    return pattern.replace(STEP, str(step))


def _check_steps(key: str, pattern: str, steps: tuple[int, ...]) -> None:
    if len(steps) > 1 and STEP not in pattern:
        raise ValueError(
            f"{key} {pattern!r} is the same for all {len(steps)} checkpoints; write {STEP} where the step belongs"
        )
