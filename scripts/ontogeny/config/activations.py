"""Which activations are read, and how they are kept."""

from typing import Literal

from ontogeny.config.base import Count, Settings

OPEN_SHARDS = 8
"""Shards that training reads at a time, at every site; their rows are interleaved."""


class HarvestSettings(Settings):
    """How a shard is read from a model."""

    dtype: Literal["float16", "int8"] = "float16"
    """Type on disk; `int8` keeps a scale per row after subtracting the shard's mean per channel."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the language model runs."""
    batch_contexts: Count = 64
    """Contexts in one forward pass."""


class ActivationSettings(HarvestSettings):
    """Activations of every site at the same token positions, in shards."""

    mode: Literal["cached", "streamed"] = "cached"
    """`cached`: shards on disk; `streamed`: none, models are run whenever their activations are read."""
    train_rows: Count = 131072
    """Token positions that dictionaries train on."""
    heldout_rows: Count = 32768
    """Token positions of heldout documents that dictionaries are measured on."""
    rows_per_shard: Count = 65536
    """Token positions of a shard; the last one of a split may be shorter."""
    keep_first_position: bool = False
    """Read position 0 of each context (BOS, an attention sink) too."""


class RowsSettings(Settings):
    """What decides the rows of one shard: nothing else does, so a longer study keeps its shards."""

    seed: int
    """Seed of the study."""
    split: Literal["train", "heldout"]
    """Split the rows come from."""
    number: int
    """Number of the shard within its split."""
    rows_per_shard: Count
    """Rows of every full shard."""
    rows: Count
    """Rows of this shard."""
    keep_first_position: bool
    """Whether position 0 of a context counts."""
