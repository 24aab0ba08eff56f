"""What the database holds: versioned, validated documents, and the indexes for what readers ask.

| collection | one document for each | `_id` |
|---|---|---|
| `runs` | run that can be read | `<study>/<dictionary>/<run>` |
| `features` | feature of a content | `<content>/<feature>` |
| `samples` | feature of a content, with all its samples | `<content>/<feature>` |
| `contents` | content that was written or begun | `<content>` |
| `studies` | study, with the results root that its name belongs to; on servers that are not embedded | `<study>` |

A *content* is the hash of a run's features and samples, and stands for them. Readers find a run first and follow its
`content`, so a run changes at once, in one document, and what is not followed is not seen.

Samples are apart from features: ten windows of text are ten times the size of the rest, which a list of features
would otherwise read along. Ranks are stored because a page of an ordered list is then a range of an index, which is
exact at any depth on every server; SecantusDB never takes an order from an index.
"""

from typing import Literal, NamedTuple

from pydantic import Field

from ontogeny.config.base import Settings

VERSION: Literal[1] = 1
"""Version of the documents, raised when a reader of the old ones would misread the new."""

RUNS = "runs"
FEATURES = "features"
SAMPLES = "samples"
CONTENTS = "contents"
STUDIES = "studies"

RANKED = ("density", "emergence_step", "peak_step", "peak_norm")
"""Fields that features are ordered by: `rank_<field>` counts from 0, by value, absent values last, then by number."""

INDEXED = ("feature", "density", "emergence_step", "peak_step", "class")
"""Fields that features are selected by."""

INDEXES: dict[str, tuple[str, ...]] = {
    FEATURES: (*INDEXED, *(f"rank_{name}" for name in RANKED)),
    SAMPLES: ("feature",),
    CONTENTS: (),
    RUNS: (),
}
"""Second fields of the indexes of each collection; the first is always `content`."""


class RunName(NamedTuple):
    """Which run, among all that a database may hold."""

    study: str
    """Name of the study."""
    dictionary: str
    """Name of the dictionary in the study."""
    run: str
    """Name of the run of the dictionary."""

    @property
    def id(self) -> str:
        """`_id` of the run's document; `/` is in no name."""
        return "/".join(self)


class Stored(Settings):
    """A document: frozen, strict about types, closed to unknown fields."""

    schema_version: Literal[1] = VERSION
    """Version of the document."""


class Feature(Stored):
    """What is known of one latent; norms are those of its decoder at each site of the run, in their order."""

    study: str
    """Name of the study."""
    dictionary: str
    """Name of the dictionary."""
    run: str
    """Name of the run."""
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
    initialisation: bool
    """Whether that is the first site of all."""
    persistence: float
    """Share of sites above tau."""
    class_: Literal["initialisation", "emergent"] | None = Field(alias="class")
    """`initialisation` or `emergent`."""
    dead: bool
    """Whether it is silent on all heldout rows."""
    rank_density: int
    """Place among the run's features by density."""
    rank_emergence_step: int
    """Place by emergence step."""
    rank_peak_step: int
    """Place by peak step."""
    rank_peak_norm: int
    """Place by peak norm."""


class Sample(Settings):
    """One place of the heldout text where a feature fires, with the tokens around it."""

    rank: int
    """Place among the feature's samples, 0 the strongest."""
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


class FeatureSamples(Stored):
    """The samples of one feature, strongest first."""

    content: str
    """Content that the feature belongs to."""
    feature: int
    """Number of the latent."""
    samples: list[Sample]
    """Empty for a dead feature."""


class Measurement(Settings):
    """One number of a table of metrics."""

    split: str
    """Split it was measured on."""
    metric: str
    """Its name, such as `fvu`."""
    value: float | None
    """None where it is no number."""
    tokens: int
    """Token positions that it was measured on."""


class MeasuredSite(Settings):
    """One site of a run, and what was measured there."""

    model: str
    """Model of the study."""
    step: int
    """Training step."""
    hook: str
    """Hook point."""
    metrics: list[Measurement]
    """What was measured there."""


class Counts(Settings):
    """How many there are in a run."""

    features: int
    """Latents."""
    samples: int
    """Samples of all features."""
    dead: int
    """Features silent on all heldout rows."""
    initialisation: int
    """Features of that class."""
    emergent: int
    """Features of the other."""


class Run(Stored):
    """A run as readers find it, and the content to follow."""

    study: str
    """Name of the study."""
    dictionary: str
    """Name of the dictionary."""
    run: str
    """Name of the run."""
    latents: int
    """Number of features."""
    sparsity: float
    """k, or the sparsity coefficient."""
    seed: int
    """Seed of the run."""
    sites: list[MeasuredSite]
    """The site axis, in order."""
    metrics: list[Measurement]
    """What was measured on all sites together."""
    counts: Counts
    """How many features and samples the content holds."""
    content: str
    """Hash of the features and samples, to be followed."""
    provenance: dict[str, str]
    """What made the run's features, as their table says; what put them here is in the receipt."""
    hash: str
    """Hash of this document without its hash, so of all that a reader sees."""
