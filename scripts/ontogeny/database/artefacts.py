"""The files of a run as documents: read in pieces, so that memory does not grow with the number of features."""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from ontogeny.database.documents import (
    RANKED,
    Feature,
    FeatureSamples,
    MeasuredSite,
    Measurement,
    RunName,
    Sample,
)
from ontogeny.errors import UserError
from ontogeny.evaluation.tables import COLUMNS, RunIdentity, read_identity
from ontogeny.sites import Site

BATCH = 512
"""Features that are read, and written, together."""

FEATURE_COLUMNS = {
    "feature": "feature",
    "density": "density",
    "mean_activation": "mean_activation",
    "max_activation": "max_activation",
    "decoder_norm": "decoder_norms",
    "normalised_norm": "normalised_norms",
    "peak_site": "peak_site",
    "peak_step": "peak_step",
    "emergence_site": "emergence_site",
    "emergence_step": "emergence_step",
    "initialisation": "initialisation",
    "persistence": "persistence",
    "class": "class",
    "dead": "dead",
}
"""Columns of the table of features, and the fields they become."""

SAMPLE_COLUMNS = ("feature", *Sample.model_fields)
"""Columns of the table of samples."""

MADE_BY = ("study", "study_hash", "commit", "study_seed", "versions")
"""What a table of features says of what made it."""


class Artefacts(NamedTuple):
    """The files of one run."""

    name: RunName
    """Which run they are of."""
    identity: RunIdentity
    """What its `config.json` says."""
    sites: tuple[Site, ...]
    """Its sites, in order."""
    features: Path
    """`features.parquet`."""
    samples: Path
    """`samples.parquet`."""
    metrics: Path
    """Folder of its tables of metrics."""
    tables: tuple[str, ...]
    """Names of these tables."""
    provenance: dict[str, str]
    """What made its features, as their table says."""


def find_artefacts(features: Path, metrics: Path, dictionary: Path, study: str | None, loss: bool = True) -> Artefacts:
    """Look at the files of a run and see that they belong together.

    Args:
        features: folder of `features.parquet` and `samples.parquet`.
        metrics: folder of the run's tables of metrics.
        dictionary: folder of the run, of which `config.json` is read.
        study: name of the study that the run is put into the database for; None for the one that its tables name.
        loss: whether there is a table with the loss of each model; not for planted ones.

    Raises:
        UserError: a file is missing, damaged, or of another run.
    """
    identity = read_identity(dictionary)
    config = dictionary / "config.json"
    sites = tuple(Site(**site) for site in json.loads(config.read_text())["sites"])
    tables = features / "features.parquet", features / "samples.parquet"
    made: dict[str, str] = {}
    for file, columns in zip(tables, (FEATURE_COLUMNS, SAMPLE_COLUMNS), strict=True):
        said = _metadata(file, columns)
        for key, value in (("dictionary", identity.dictionary), ("run", identity.run)):
            if said.get(key, value) != value:
                raise UserError(f"{file}: it is of {key} {said[key]}, and {config} of {value}; make both again")
        if "sites" in said and [Site(**site) for site in json.loads(said["sites"])] != list(sites):
            raise UserError(f"{file}: its sites are not those of {config}; make it again")
        made = made or {key: said[key] for key in MADE_BY if key in said}
    name = RunName(study or made.get("study", "unnamed"), identity.dictionary, identity.run)
    models = dict.fromkeys(site.model for site in sites) if loss else ()
    measured = ("reconstruction", *(f"nll-{model}" for model in models))
    return Artefacts(name, identity, sites, *tables, metrics, measured, made)


def read_documents(artefacts: Artefacts, content: str) -> Iterator[tuple[Feature, FeatureSamples]]:
    """Yield the documents of every feature, by number.

    Args:
        artefacts: where they come from.
        content: what they are said to belong to.

    Raises:
        UserError: a table is damaged, lacks a feature, or holds a value of the wrong type.
    """
    ranks = _ranks(artefacts.features)
    groups = itertools.groupby(_rows(artefacts.samples, SAMPLE_COLUMNS, BATCH), lambda row: row["feature"])
    group = next(groups, None)
    latents = artefacts.identity.latents
    number = -1
    for number, row in enumerate(_rows(artefacts.features, FEATURE_COLUMNS, BATCH)):
        if row["feature"] != number or number >= latents:
            raise UserError(
                f"{artefacts.features}: row {number} holds feature {row['feature']}; expected features 0 to "
                f"{latents - 1} in order; make the table again"
            )
        samples: list[dict[str, Any]] = []
        if group and group[0] == number:
            samples = [{key: row[key] for key in row if key != "feature"} for row in group[1]]
            group = next(groups, None)
        yield _documents(artefacts, content, row, {name: int(ranks[name][number]) for name in RANKED}, samples)
    if number != latents - 1:
        raise UserError(f"{artefacts.features}: {number + 1} features; expected {latents}; make the table again")
    if group:
        raise UserError(f"{artefacts.samples}: feature {group[0]} is not in its place; make the table again")


def read_metrics(artefacts: Artefacts) -> tuple[list[Measurement], list[MeasuredSite]]:
    """Read what was measured, on all sites together and on each.

    Raises:
        UserError: a table is missing, damaged, or of another run.
    """
    found: dict[Site | None, list[Measurement]] = {site: [] for site in (None, *artefacts.sites)}
    for name in artefacts.tables:
        file = artefacts.metrics / f"{name}.csv"
        for number, row in _csv(file):
            site, measured = _measurement(file, number, row, artefacts.identity)
            if site not in found:
                raise UserError(f"{file}: line {number}: {site} is no site of the run; make the table again")
            found[site].append(measured)
    return found[None], [MeasuredSite(**site._asdict(), metrics=found[site]) for site in artefacts.sites]


def _documents(
    artefacts: Artefacts, content: str, row: dict[str, Any], ranks: dict[str, int], samples: list[dict[str, Any]]
) -> tuple[Feature, FeatureSamples]:
    known = {field: row[column] for column, field in FEATURE_COLUMNS.items()}
    known |= {f"rank_{name}": rank for name, rank in ranks.items()}
    known |= {**artefacts.name._asdict(), "content": content, "peak_norm": max(row["decoder_norm"], default=0.0)}
    if len(row["decoder_norm"]) != len(artefacts.sites):
        raise UserError(
            f"{artefacts.features}: feature {row['feature']} has {len(row['decoder_norm'])} decoder norms; "
            f"expected one for each of {len(artefacts.sites)} sites; make the table again"
        )
    with _valid(artefacts.features, row["feature"]):
        feature = Feature.model_validate(known)
    with _valid(artefacts.samples, row["feature"]):
        return feature, FeatureSamples.model_validate(
            {"content": content, "feature": feature.feature, "samples": samples}
        )


@contextmanager
def _valid(file: Path, feature: int) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{file}: feature {feature}: {place}: {first['msg']}, not {first['input']!r}; make the table again"
        ) from None


def _metadata(file: Path, columns: Iterable[str]) -> dict[str, str]:
    """Read what a table says of itself, and see that it has all `columns`."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a table that features.py wrote")
    with _undamaged(file):
        schema = pq.read_schema(file)
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise UserError(f"{file}: column {missing[0]!r} is missing; make the table again")
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"}


def _rows(file: Path, columns: Iterable[str], size: int) -> Iterator[dict[str, Any]]:
    with _table(file) as table:
        for batch in table.iter_batches(size, columns=list(columns)):
            yield from batch.to_pylist()


def _ranks(file: Path) -> dict[str, NDArray[np.int64]]:
    """Place every feature by each ranked field: by value, absent values last, equals by number, (L,)."""
    with _table(file) as table:
        columns = table.read(columns=[name for name in RANKED if name != "peak_norm"])
        norms = [
            np.fromiter((max(norms, default=0.0) for norms in batch["decoder_norm"].to_pylist()), dtype=np.float64)
            for batch in table.iter_batches(BATCH, columns=["decoder_norm"])
        ]
    values = {name: columns[name].cast(pa.float64()).to_numpy() for name in columns.column_names}
    values["peak_norm"] = np.concatenate([np.empty(0), *norms])
    ranks = {}
    for name, value in values.items():
        ranks[name] = np.empty(len(value), dtype=np.int64)
        ranks[name][np.argsort(value, kind="stable")] = np.arange(len(value))
    return ranks


@contextmanager
def _table(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a table so that it is read piece by piece: what the library reads ahead otherwise grows with the file."""
    with _undamaged(file), pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as table:
        yield table


@contextmanager
def _undamaged(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: it is damaged ({reason}); remove it and make it again") from error


def _csv(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the cells of each line of a table of metrics."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected the run's metrics, from reconstruction.py and nll.py")
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.reader(text)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise UserError(f"{file}: its columns are {', '.join(header)}; expected {', '.join(COLUMNS)}")
        for cells in reader:
            if len(cells) != len(COLUMNS):
                raise UserError(f"{file}: line {reader.line_num} has {len(cells)} cells; expected {len(COLUMNS)}")
            yield reader.line_num, dict(zip(COLUMNS, cells, strict=True))


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
