"""What the database holds: versioned, validated documents, and the indexes for what readers ask.

| collection | one document for each | `_id` |
|---|---|---|
| `runs` | run that can be read | `<study>/<dictionary>/<run>` |
| `features` | feature of a content, as a list shows it | `<content>/<feature>` |
| `details` | feature of a content, what a page of its own shows besides | `<content>/<feature>` |
| `columns` | quantity by which features are listed, of all features of a content | `<content>/<column>` |
| `terms` | word by which features are found, of a content | `<content>/<scope>/<word>` |
| `edits` | feature to which people added something | `<weights>/<feature>` |
| `contents` | content that was written or begun | `<content>` |
| `studies` | study, with the results root that its name belongs to; on servers that are not embedded | `<study>` |

A *content* is the hash of a run's features and details, and stands for them. Readers find a run first and follow its
`content`, so a run changes at once, in one document, and what is not followed is not seen. What people add belongs to
the *weights*, the hash of all decoder norms, and so stays with a feature while the tables about it are made anew.

Details are apart from features: windows of text and readings are twenty times the size of the rest, which a list would
otherwise read along. Lists are ordered and filtered by columns, a few hundred kilobytes each, and read the documents of
one page: that is exact for every choice of filters, on every server; SecantusDB never takes an order from an index.
"""

from typing import Literal, NamedTuple

from pydantic import Field

from ontogeny.config.base import Settings

VERSION: Literal[2] = 2
"""Version of the documents, raised when a reader of the old ones would misread the new."""

RUNS = "runs"
FEATURES = "features"
DETAILS = "details"
COLUMNS = "columns"
TERMS = "terms"
EDITS = "edits"
CONTENTS = "contents"
STUDIES = "studies"

INDEXES: dict[str, tuple[str, str]] = {
    FEATURES: ("content", "feature"),
    DETAILS: ("content", "feature"),
    COLUMNS: ("content", "name"),
    TERMS: ("content", "term"),
    EDITS: ("weights", "feature"),
}
"""Fields of the index of each collection."""

Scope = Literal["text", "context", "promoted", "interpretation"]
"""Where a word is: where a feature fires, around it, among the tokens it promotes, in its interpretation."""


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

    schema_version: Literal[2] = VERSION
    """Version of the document."""


class Column(Stored):
    """One quantity of all features of a content, by number."""

    content: str
    """Content."""
    name: str
    """Name of the column."""
    values: bytes
    """Numbers as little-endian float64, not a number where absent; of a column with `names`, indices of these."""
    names: list[str]
    """Values of a column of words; else empty."""


class Term(Stored):
    """The features that a word leads to."""

    content: str
    """Content."""
    term: str
    """`<scope>/<word>`."""
    features: bytes
    """Their numbers, ascending, as little-endian int32."""


class Edit(Settings):
    """What people added to a feature; it has a version of its own, since nothing can make it again."""

    schema_version: Literal[1] = 1
    """Version of the document."""
    weights: str
    """Hash of the decoder norms of the run."""
    feature: int
    """Number of the latent."""
    run: str
    """`_id` of the run at which it was written."""
    bookmark: bool = False
    """Whether it is bookmarked."""
    tags: list[str] = Field(default_factory=list)
    """Tags, in alphabetical order."""
    interpretation: str = ""
    """What somebody says that it stands for."""
    note: str = ""
    """Anything else."""
    revision: int = 0
    """How often it was changed."""


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
    classes: dict[str, int]
    """Features of each class."""
    types: dict[str, int]
    """Features of each type, where types were measured."""


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
    gate: Literal["shared", "site"]
    """Whether a feature is as active at all sites, or has a gate at each."""
    threshold: float
    """tau: a feature is there where its normalised norm is above it."""
    rows: int
    """Heldout rows that its features were read on."""
    sites: list[MeasuredSite]
    """The site axis, in order."""
    metrics: list[Measurement]
    """What was measured on all sites together."""
    counts: Counts
    """How many features and samples the content holds."""
    columns: list[str]
    """Names of its columns."""
    content: str
    """Hash of the features and details, to be followed."""
    weights: str
    """Hash of all decoder norms, which what people add belongs to."""
    provenance: dict[str, str]
    """What made the run's features, as their table says; what put them here is in the receipt."""
    hash: str
    """Hash of this document without its hash, so of all that a reader sees."""
