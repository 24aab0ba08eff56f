"""How dictionaries are measured."""

from typing import Annotated

from pydantic import Field

from ontogeny.config.base import Count, Name, Positive, Settings


class NllSettings(Settings):
    """Next-token loss of the model with the dictionary in its place."""

    tokens: Count = 32768
    """Heldout positions read, BOS included, rounded up to whole contexts; fewer where the split is smaller."""
    batch_contexts: Count = 32
    """Contexts in one forward pass."""
    parts: Count = 1
    """Jobs that divide the contexts of a run, for large models on several nodes; it changes no number."""


class NgramSettings(Settings):
    """KL divergence of a language model from the unigrams and bigrams of the training text, by checkpoint."""

    tokens: Count = 16384
    """Heldout positions read, BOS included, rounded up to whole contexts; fewer where the split is smaller."""
    batch_contexts: Count = 8
    """Contexts in one forward pass."""


class FeatureSettings(Settings):
    """The table of features and their samples."""

    samples: Count = 10
    """Heldout samples kept for each feature, those with the highest activation."""
    quantiles: Annotated[Count, Field(le=127)] = 4
    """Bands of a feature's activation range that further samples are drawn from, with equal numbers of firings each."""
    quantile_samples: Annotated[int, Field(ge=0)] = 3
    """Samples drawn from each band, no two of one context and none of those above; fewer where there are fewer."""
    quantile_seed: int = 0
    """Seed of the samples that are drawn."""
    window: Count = 12
    """Tokens kept before and after the position where a feature fires."""
    emergence_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """tau: a feature is there where its decoder norm, over its maximum over sites, is above it."""


class ProbeSettings(Settings):
    """Linear probes and latent scaling: whether a feature is there where its decoder norm is small."""

    features: Count = 512
    """Features that are probed, by chance from those that fire often enough."""
    seed: int = 0
    """Seed of the choice."""
    firings: Count = 32
    """Heldout rows, of those read, on which a feature must fire to be probed, by its density."""
    rows: Count = 65536
    """Rows read of each split, training ones to fit and heldout ones to measure; fewer where there are fewer."""
    ridge: Positive = 1e-3
    """Ridge penalty over the mean variance of a channel and the number of rows."""


class TaskSettings(Settings):
    """Tasks with a right and a wrong next token, and what features do for them."""

    items: Count = 64
    """Items of each task, in groups of two or four; fewer where too few of their words are single tokens."""
    seed: int = 0
    """Seed of the items, and of the random features that are ablated for comparison."""
    integration_steps: Count = 24
    """Points of Gauss-Legendre quadrature between none and all of the features, for integrated gradients."""
    leading: Count = 5
    """Features listed for each task and checkpoint, those that raise the logit difference most."""
    ks: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 4, 16, 64, 256, 1024)
    """How many features are ablated, or kept alone; numbers from that of the latents on are left out."""
    batch_positions: Count = 4096
    """Token positions in one forward pass."""


class FeatureTypeSettings(Settings):
    """Types of features by what their activation depends on: a token, a repetition, or more of the context."""

    features: Count = 384
    """Features that are measured: equal numbers of both classes, as far as there are, by chance from those that fire
    often enough."""
    seed: int = 0
    """Seed of the choice, and of the random tokens."""
    firings: Count = 32
    """Heldout rows on which a feature must fire to be measured."""
    token_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A current-token or previous-token feature has at least this share of its variance explained by that token."""
    sequences: Count = 64
    """Sequences of random tokens that are followed by their copy, with as many where other tokens come before it."""
    copied: Annotated[Count, Field(ge=2)] = 63
    """Tokens that are copied; fewer where contexts are too short."""
    induction_score: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """An induction feature has at least this (c - o) / (c + o), where c is its mean activation on copies and o that on
    what is copied, or on the same tokens in the same place after other ones, whichever is larger: at 0.5, copies excite
    it three times as much. Features of tokens that were seen before are among them."""
    induction_firings: Count = 16
    """Positions of copies on which an induction feature fires at least."""
    samples: Count = 8
    """Top samples of a feature that are cut to their last 1, 2, 4, ... tokens; no more than `features.samples`."""
    restored: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the activation in full context that a context long enough restores."""
    context: Annotated[Count, Field(ge=2)] = 8
    """Tokens, its own included, that a context-sensitive feature needs at least, in the median of its samples."""


class MatchingSettings(Settings):
    """Whether features emerge at the same step in other runs: under other checkpoints, with another seed."""

    against: tuple[Name, ...] = ()
    """Dictionaries whose runs with the latents, k and sparsity of `figures.run` are compared with it over the
    checkpoints of both, feature by feature; they are there for this alone, and other figures leave them out."""
    cosine: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Two features are the same where each is the other's best match and their cosine is above this."""


class EvaluationSettings(Settings):
    """How dictionaries are measured on heldout rows."""

    nll: NllSettings = NllSettings()
    """Reconstructed loss."""
    ngram: NgramSettings = NgramSettings()
    """Language models against n-grams."""
    features: FeatureSettings = FeatureSettings()
    """Feature table and samples."""
    probes: ProbeSettings = ProbeSettings()
    """Linear probes and latent scaling of a featured run."""
    tasks: TaskSettings = TaskSettings()
    """Tasks, for the figures `attribution` and `necessity_sufficiency`."""
    feature_types: FeatureTypeSettings = FeatureTypeSettings()
    """Types of the features of the featured run."""
    matching: MatchingSettings = MatchingSettings()
    """Comparison of runs."""
