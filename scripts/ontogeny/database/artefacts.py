"""The files of a run, and whether they belong together."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ontogeny.database.documents import MeasuredSite, Measurement, RunName
from ontogeny.database.tables import batches, csv_rows, metadata
from ontogeny.errors import UserError
from ontogeny.evaluation.tables import RunIdentity, read_identity
from ontogeny.sites import Site

FEATURES = (
    *("feature", "density", "mean_activation", "max_activation", "decoder_norm", "normalised_norm", "peak_site"),
    *("peak_step", "emergence_site", "emergence_step", "persistence", "dead", "histogram"),
)
SAMPLES = (
    *("feature", "rank", "quantile", "activation", "document", "context", "position", "start", "tokens", "texts"),
    *("activations", "readings", "readings_scale"),
)
DECODERS = (
    *("feature", "rotation", "neighbours", "neighbour_cosines", "promoted_texts", "promoted_logits"),
    *("suppressed_texts", "suppressed_logits"),
)
TYPES = ("feature", "type", "context_needed")
INTERPRETATIONS = ("feature", "explanation", "complexity", "detection", "fuzzing")
"""Columns that are read of each table."""

MADE_BY = ("study", "study_hash", "commit", "study_seed", "versions")
"""What a table of features says of what made it."""


class Besides(NamedTuple):
    """Tables that not every run has."""

    decoders: Path | None = None
    """`decoders.parquet`: rotation, nearest features, promoted tokens."""
    types: Path | None = None
    """`feature_types.parquet`."""
    interpretations: Path | None = None
    """`interpretations.parquet`: what a language model says of features."""
    attributions: tuple[Path, ...] = ()
    """`attributions-<model>.parquet` of each model: what features do for tasks."""


NOTHING = Besides()
"""For runs that have none of them."""


class Artefacts(NamedTuple):
    """The files of one run."""

    name: RunName
    """Which run they are of."""
    identity: RunIdentity
    """What its `config.json` says."""
    sites: tuple[Site, ...]
    """Its sites, in order."""
    gate: str
    """`shared` or `site`."""
    features: Path
    """`features.parquet`."""
    samples: Path
    """`samples.parquet`."""
    besides: Besides
    """Tables that not every run has."""
    tasks: tuple[tuple[str, tuple[str, ...]], ...]
    """Model and tasks of each table of attributions."""
    metrics: Path
    """Folder of its tables of metrics."""
    tables: tuple[str, ...]
    """Names of these tables."""
    threshold: float
    """tau of the study."""
    rows: int
    """Heldout rows that its features were read on."""
    provenance: dict[str, str]
    """What made its features, as their table says."""


def find_artefacts(
    features: Path,
    metrics: Path,
    dictionary: Path,
    study: str | None,
    loss: bool = True,
    besides: Besides = NOTHING,
) -> Artefacts:
    """Look at the files of a run and see that they belong together.

    Args:
        features: folder of `features.parquet` and `samples.parquet`.
        metrics: folder of the run's tables of metrics.
        dictionary: folder of the run, of which `config.json` is read.
        study: name of the study that the run is put into the database for; None for the one that its tables name.
        loss: whether there is a table with the loss of each model; not for planted ones.
        besides: tables that not every run has.

    Raises:
        UserError: a file is missing, damaged, or of another run.
    """
    identity = read_identity(dictionary)
    config = dictionary / "config.json"
    said_of_run = json.loads(config.read_text())
    sites = tuple(Site(**site) for site in said_of_run["sites"])
    files: dict[Path | None, Sequence[str]] = {
        features / "features.parquet": FEATURES,
        features / "samples.parquet": SAMPLES,
        besides.decoders: DECODERS,
        besides.types: TYPES,
        besides.interpretations: INTERPRETATIONS,
        **dict.fromkeys(besides.attributions, ("feature",)),
    }
    said = {file: _said(file, columns, identity, sites, config) for file, columns in files.items() if file}
    first = said[features / "features.parquet"]
    models = dict.fromkeys(site.model for site in sites) if loss else ()
    return Artefacts(
        name=RunName(study or first.get("study", "unnamed"), identity.dictionary, identity.run),
        identity=identity,
        sites=sites,
        gate=said_of_run["gate"],
        features=features / "features.parquet",
        samples=features / "samples.parquet",
        besides=besides,
        tasks=tuple((said[file]["model"], tuple(json.loads(said[file]["tasks"]))) for file in besides.attributions),
        metrics=metrics,
        tables=("reconstruction", *(f"nll-{model}" for model in models)),
        threshold=float(first["emergence_threshold"]),
        rows=int(first["rows"]),
        provenance={key: first[key] for key in MADE_BY if key in first},
    )


def hash_of_weights(features: Path) -> str:
    """Hash the decoder norms of all features, which stand for the weights that they are of.

    Raises:
        UserError: the file is damaged.
    """
    digest = hashlib.blake2b(digest_size=16)
    for batch in batches(features, ["decoder_norm"]):
        digest.update(batch.column(0).flatten().to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def read_metrics(artefacts: Artefacts) -> tuple[list[Measurement], list[MeasuredSite]]:
    """Read what was measured, on all sites together and on each.

    Raises:
        UserError: a table is missing, damaged, or of another run.
    """
    found: dict[Site | None, list[Measurement]] = {site: [] for site in (None, *artefacts.sites)}
    for name in artefacts.tables:
        file = artefacts.metrics / f"{name}.csv"
        for number, row in csv_rows(file):
            site, measured = _measurement(file, number, row, artefacts.identity)
            if site not in found:
                raise UserError(f"{file}: line {number}: {site} is no site of the run; make the table again")
            found[site].append(measured)
    return found[None], [MeasuredSite(**site._asdict(), metrics=found[site]) for site in artefacts.sites]


def _said(
    file: Path, columns: Sequence[str], identity: RunIdentity, sites: Sequence[Site], config: Path
) -> dict[str, str]:
    """Read what a table says of itself, and refuse that of another run or of other sites."""
    said = metadata(file, columns)
    for key, value in (("dictionary", identity.dictionary), ("run", identity.run)):
        if said.get(key, value) != value:
            raise UserError(f"{file}: it is of {key} {said[key]}, and {config} of {value}; make both again")
    # A table of attributions names the sites of its model alone.
    expected = [site for site in sites if said.get("model", site.model) == site.model]
    if "sites" in said and [Site(**site) for site in json.loads(said["sites"])] != expected:
        raise UserError(f"{file}: its sites are not those of {config}; make it again")
    return said


def _measurement(
    file: Path, number: int, row: dict[str, str], identity: RunIdentity
) -> tuple[Site | None, Measurement]:
    for key in ("dictionary", "run"):
        if row[key] != getattr(identity, key):
            raise UserError(
                f"{file}: line {number} is of {key} {row[key]}; expected {getattr(identity, key)}; make the table again"
            )
    try:
        site = Site(row["model"], int(row["step"]), row["hook"]) if row["model"] else None
        value = float(row["value"]) if row["value"] else None
        return site, Measurement(split=row["split"], metric=row["metric"], value=value, tokens=int(row["tokens"]))
    except ValueError as error:
        raise UserError(f"{file}: line {number}: {error}; make the table again") from None
