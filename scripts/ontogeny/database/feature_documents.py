"""Documents of a feature: the row of a list, and what its own page shows besides."""

from typing import Literal

from pydantic import Field

from ontogeny.config.base import Settings
from ontogeny.database.documents import Stored

FeatureClass = Literal["always-on", "returning", "fading", "lasting", "transient"]
"""The classes of `evaluation.emergence.CLASSES`."""
FeatureType = Literal["current-token", "previous-token", "induction", "context-sensitive", "other"]
"""The types of `evaluation.type_rules.TYPES`."""


class Interpretation(Settings):
    """What a language model says of a feature."""

    explanation: str
    """What the feature stands for."""
    complexity: int | None
    """From 1, a token, to 5, an abstract idea."""
    detection: float | None
    """Balanced accuracy of telling windows where it fires from others by the explanation."""
    fuzzing: float | None
    """Balanced accuracy of telling marked tokens on which it fires from others."""


class Snippet(Settings):
    """A few tokens around the place where a feature fires most."""

    texts: list[str]
    """Their texts."""
    activations: list[float | None]
    """Activation at each of them; None where it was not read."""


class Feature(Stored):
    """A latent as lists show it; norms are those of its decoder at each site of the run, in their order."""

    content: str
    """Content that the feature belongs to."""
    feature: int
    """Number of the latent, from 0."""
    density: float
    """Share of heldout rows where it fires."""
    mean_activation: float
    """Its mean activation where it fires."""
    max_activation: float
    """Its strongest activation."""
    decoder_norms: list[float]
    """Norm at each site, on scaled activations."""
    normalised_norms: list[float]
    """The same over their maximum."""
    peak_norm: float
    """That maximum."""
    peak_site: int | None
    """Number of the site with the largest norm; None without a decoder, like all that speaks of peak or emergence."""
    peak_step: int | None
    """Its step."""
    emergence_site: int | None
    """Number of the first site where the normalised norm is above tau."""
    emergence_step: int | None
    """Its step."""
    persistence: float
    """Share of sites above tau."""
    class_: FeatureClass | None = Field(alias="class")
    """Its class by tau; None without a decoder."""
    dead: bool
    """Whether it is silent on all heldout rows."""
    type_: FeatureType | None = Field(alias="type")
    """Its type, where it was measured."""
    context_needed: float | None
    """Tokens of context that restore its activation, where that was measured."""
    interpretation: Interpretation | None
    """What a language model says of it, where one was asked."""
    promoted: list[str]
    """Tokens that it promotes most at its peak, at most five."""
    snippet: Snippet | None
    """Where it fires most; None for a dead feature."""


class Sample(Settings):
    """One place of the heldout text where a feature fires, with the tokens around it."""

    rank: int
    """Place among the samples of its group, 0 the strongest of the top ones."""
    quantile: int | None
    """Band of activation that it was drawn from, 0 the weakest; None for top samples."""
    activation: float
    """Activation of the feature there."""
    document: int
    """Number of the document in the split."""
    context: int
    """Number of the context."""
    position: int
    """Position in the context."""
    start: int
    """Position of the first token of the window."""
    tokens: list[int]
    """Ids of the window's tokens."""
    texts: list[str]
    """Their texts."""
    activations: list[float | None]
    """Activation at each of them; None where it was not read."""
    readings: bytes
    """What each site adds to the pre-activation at each token, signed bytes (sites, tokens); -128 where not read."""
    readings_scale: float
    """What a reading of 1 is worth."""


class Promotion(Settings):
    """What a feature does to the next token at one site, through that checkpoint's final norm and unembedding."""

    promoted: list[str]
    """Tokens with the highest contribution, descending."""
    promoted_logits: list[float]
    """Their contributions."""
    suppressed: list[str]
    """Tokens with the lowest contribution, ascending."""
    suppressed_logits: list[float]
    """Their contributions."""


class Attribution(Settings):
    """What a feature does for a task."""

    model: str
    """Model of the sites."""
    task: str
    """Name of the task."""
    values: list[float]
    """Integrated gradients at each site of the model, in the order of the run, in logits."""


class Details(Stored):
    """What a feature's page shows besides the row of a list."""

    content: str
    """Content that the feature belongs to."""
    feature: int
    """Number of the latent."""
    histogram: list[int]
    """Heldout rows in equal bins of activation, from 0 to its maximum."""
    samples: list[Sample]
    """Top samples, strongest first, then those of each band from the weakest; empty for a dead feature."""
    rotation: list[float | None]
    """Cosine of its decoders at two sites, (S, S) row by row; None where one is 0; empty where it was not computed."""
    neighbours: list[int]
    """Features with the most similar decoders, most similar first."""
    neighbour_cosines: list[float]
    """Their cosines, over all sites together."""
    promotions: list[Promotion]
    """One for each site; empty where no model has logits, or this was not computed."""
    attributions: list[Attribution]
    """One for each task and model, where they were measured."""
