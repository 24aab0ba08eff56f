"""How dictionaries are measured."""

from typing import Annotated

from pydantic import Field

from ontogeny.config.base import Count, Settings


class NllSettings(Settings):
    """Next-token loss of the model with the dictionary in its place."""

    tokens: Count = 32768
    """Heldout positions read, BOS included, rounded up to whole contexts; fewer where the split is smaller."""
    batch_contexts: Count = 32
    """Contexts in one forward pass."""
    parts: Count = 1
    """Jobs that divide the contexts of a run, for large models on several nodes; it changes no number."""


class FeatureSettings(Settings):
    """The table of features and their top samples."""

    samples: Count = 10
    """Heldout samples kept for each feature, those with the highest activation."""
    window: Count = 12
    """Tokens kept before and after the position where a feature fires."""
    emergence_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """tau: a feature is there where its decoder norm, over its maximum over sites, is above it."""


class EvaluationSettings(Settings):
    """How dictionaries are measured on heldout rows."""

    nll: NllSettings = NllSettings()
    """Reconstructed loss."""
    features: FeatureSettings = FeatureSettings()
    """Feature table and samples."""
