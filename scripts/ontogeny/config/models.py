"""Models: trained here, in a local folder, on the hub, in a GGUF file, or planted, which is none."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ontogeny.config.base import Count, Name, NonNegative, Number, Positive, Settings
from ontogeny.config.gguf import GgufFile


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


def _part(part: tuple[float, float]) -> tuple[float, float]:
    if part[0] >= part[1]:
        raise ValueError(f"documents go from a share to a larger one, such as [0, 0.5], not {list(part)}")
    return part


Share = Annotated[Number, Field(ge=0, le=1)]
"""A share from 0 to 1."""


class Training(Settings):
    """AdamW on the training contexts, in a seeded order, with linear warm-up and cosine decay."""

    steps: Annotated[int, Field(ge=0)] = 1000
    """Optimiser steps; with 0 the model stays as it was drawn."""
    documents: Annotated[tuple[Share, Share], AfterValidator(_part)] = (0.0, 1.0)
    """Part of the training documents that the model reads, in the order of the corpus: `[0, 0.5]` is the first half."""
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


class Start(Settings):
    """A checkpoint of another model that is trained here."""

    model: Name
    """Name of that model."""
    step: Annotated[int, Field(ge=0)]
    """One of its checkpoints."""


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
    start: Start | None = None
    """Checkpoint of another model whose weights it begins with, with an optimiser and steps of its own; none by
    default. Both have one architecture."""
    seed: int | None = None
    """Seed of the weights and of the order of contexts; that of the study by default."""


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


class HubShape(Settings):
    """Shape of a model of the hub, as its `config.json` there has it."""

    layers: Count
    """Blocks, there `num_hidden_layers`."""
    d_model: Count
    """Width of the residual stream, there `hidden_size`."""
    d_mlp: Count
    """Width of the MLP's hidden layer, there `intermediate_size`."""
    vocab_size: Count
    """Entries of the vocabulary, there `vocab_size`."""


class HubModel(HubSource):
    """A model of the Hugging Face hub with one revision per checkpoint."""

    checkpoints: Steps
    """Steps that the hub holds."""
    shape: HubShape | None = None
    """What `make plan` counts with, and hooks are checked against, before anything is fetched."""

    @model_validator(mode="after")
    def _check(self) -> "HubModel":
        _check_steps("revision", self.revision, self.checkpoints)
        return self


class GgufSource(GgufFile):
    """A model in a GGUF file, such as one that a Python package carries."""

    source: Literal["gguf"]
    """Kind of model."""


class GgufModel(GgufSource):
    """A model in a GGUF file, which is one checkpoint."""

    checkpoints: Annotated[Steps, Field(max_length=1)] = (1,)
    """Step by which the checkpoint goes; 0 is for models before training."""


class PlantedModel(Settings):
    """No model: activations that are sums of known features, to see whether dictionaries find them.

    A feature is a direction of norm 1. On a row it is active with a probability of its own, at a strength that is
    uniform between 0 and 1, the same at every checkpoint and hook; what differs between checkpoints is its direction.
    """

    source: Literal["planted"]
    """Kind of model."""
    checkpoints: Steps
    """Steps of the checkpoints that are imitated."""
    seed: int = 0
    """Seed of the features and of the rows on which they are active."""
    d_model: Annotated[int, Field(ge=2)] = 64
    """Width of the activations."""
    features: Count = 128
    """Features; more of them than `d_model` are in superposition."""
    active: Positive = 4.0
    """Mean number of features that are active on a row; rows with none stay empty."""
    decay: Annotated[Number, Field(gt=0, le=1)] = 0.99
    """Probability of a feature over that of the feature before it."""
    correlated: bool = False
    """Whether features tend to be active together; each is active as often as it is without."""
    noise: NonNegative = 0.0
    """Standard deviation of normal noise in every channel, drawn for each checkpoint and hook."""
    emergent: Share = 0.0
    """Share of the features that are absent at first and emerge at a checkpoint after the first."""
    dying: Share = 0.0
    """Share of the features that are there at first and absent from a checkpoint after the first on."""
    rotating: Share = 0.0
    """Share of the features that turn, by the same angle from each checkpoint to the next; the others never change."""
    rotation: Annotated[Number, Field(ge=0, le=180)] = 90.0
    """Degrees between the first and the last direction of a feature that turns."""

    @model_validator(mode="after")
    def _check(self) -> "PlantedModel":
        evolving = self.emergent + self.dying + self.rotating
        if evolving > 1 + 1e-9:
            raise ValueError(f"emergent, dying and rotating are shares of the features; together they are {evolving:g}")
        if evolving and len(self.checkpoints) == 1:
            raise ValueError("features that emerge, die or rotate need two checkpoints or more; checkpoints lists one")
        if 1 in (self.emergent, self.dying):
            raise ValueError("a checkpoint would have no feature; lower emergent or dying")
        if self.most_frequent() > 1:
            raise ValueError(
                f"active {self.active:g} of {self.features} features makes the probability of the first one "
                f"{self.most_frequent():.3g}; lower active, or raise features or decay"
            )
        return self

    def most_frequent(self) -> float:
        """Largest probability with which a feature is active on a row, over rows of every kind."""
        total = sum(self.decay**number for number in range(self.features))
        return self.active / total * (2 if self.correlated else 1)


ModelSettings = Annotated[
    TrainedModel | LocalModel | HubModel | GgufModel | PlantedModel, Field(discriminator="source")
]

CheckpointSource = Annotated[LocalSource | HubSource | GgufSource, Field(discriminator="source")]
"""Where a checkpoint comes from; which steps the study reads is no part of it."""


def _of_step(pattern: str, step: int) -> str:
    """Put a step into a pattern; all other braces are part of a name."""
    return pattern.replace(STEP, str(step))


def _check_steps(key: str, pattern: str, steps: tuple[int, ...]) -> None:
    if len(steps) > 1 and STEP not in pattern:
        raise ValueError(
            f"{key} {pattern!r} is the same for all {len(steps)} checkpoints; write {STEP} where the step belongs"
        )
