"""Put a run into the database: all of it or nothing of it, and nothing twice.

Features, details, columns and terms are written under their content, which no reader follows yet; then the run's
document is replaced, which readers follow from that moment; then what it followed before is removed. A command that is
killed leaves at most documents that nobody follows; the next ingest of the run completes or removes them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import bson
from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from ontogeny.command import progress
from ontogeny.config.database import EMBEDDED, DatabaseSettings
from ontogeny.database.artefacts import NOTHING, Artefacts, Besides, find_artefacts, hash_of_weights, read_metrics
from ontogeny.database.assembly import read_documents
from ontogeny.database.columns import ColumnBuilder
from ontogeny.database.connect import DURABLE, Document, connect, server_name
from ontogeny.database.documents import (
    COLUMNS,
    CONTENTS,
    DETAILS,
    FEATURES,
    INDEXES,
    RUNS,
    TERMS,
    Column,
    Counts,
    Run,
    Stored,
    Term,
)
from ontogeny.database.feature_documents import Details, Feature
from ontogeny.database.names import claim_name
from ontogeny.database.removal import remove_contents
from ontogeny.database.tables import BATCH
from ontogeny.database.terms import TermBuilder
from ontogeny.errors import UserError
from ontogeny.files import write_json
from ontogeny.provenance import provenance

DUPLICATE_KEY = 11000
LARGEST_DOCUMENT = 16 * 2**20 - 2**10
"""Bytes that MongoDB takes in one document, less what its `_id` and its content take."""
TOKENS_AT_ONCE = 200_000
"""Tokens of samples that are written together, whatever their number in a feature."""
TERMS_AT_ONCE = 1024
"""Terms that are written together."""


class Summary(NamedTuple):
    """What a run's features and details amount to."""

    content: str
    """Hash of all their documents."""
    counts: Counts
    """How many there are."""
    columns: list[Column]
    """Their columns, of no content yet."""


def write_receipt(
    settings: DatabaseSettings,
    home: Path,
    features: Path,
    metrics: Path,
    dictionary: Path,
    out: Path,
    study: Path | None,
    loss: bool = True,
    besides: Besides = NOTHING,
) -> dict[str, float]:
    """Ingest a run and write what was ingested, once all of it is in the server's files.

    Args:
        settings: which database.
        home: folder of the embedded server's files.
        features: folder of the run's features and samples.
        metrics: folder of its tables of metrics.
        dictionary: folder of the run.
        out: the receipt.
        study: the study's `study.json`, or None.
        loss: whether the metrics have the loss of each model; not for planted ones.
        besides: tables that not every run has.

    Returns:
        Features and samples of the run.

    Raises:
        UserError: a file is missing or damaged, the database cannot be used, or the study's name in it belongs to
            another results root.
    """
    ingested_by = provenance(study)
    artefacts = find_artefacts(features, metrics, dictionary, ingested_by.get("study"), loss, besides)
    run = describe(artefacts)
    with connect(settings, home) as database:
        if settings.uri != EMBEDDED:
            claim_name(database, artefacts.name.study, study)
        ingest(database, artefacts, run)
    write_json(out, {**_receipt(settings, artefacts, run), "provenance": ingested_by})
    return {"features": run.counts.features, "samples": run.counts.samples}


def _receipt(settings: DatabaseSettings, artefacts: Artefacts, run: Run) -> dict[str, object]:
    return {
        **artefacts.name._asdict(),
        "server": server_name(settings),
        "database": settings.name,
        "collections": {RUNS: 1, FEATURES: run.counts.features, DETAILS: run.counts.features},
        "counts": run.counts.model_dump(),
        "content": run.content,
        "hash": run.hash,
    }


def describe(artefacts: Artefacts) -> Run:
    """Make the document of a run from its files.

    Raises:
        UserError: a file is damaged, or a feature's samples do not fit into a document.
    """
    summary = _summarise(artefacts)
    pooled, sites = read_metrics(artefacts)
    document = {
        **artefacts.name._asdict(),
        **artefacts.identity._asdict(),
        "gate": artefacts.gate,
        "threshold": artefacts.threshold,
        "rows": artefacts.rows,
        "sites": sites,
        "metrics": pooled,
        "counts": summary.counts,
        "columns": [column.name for column in summary.columns],
        "content": summary.content,
        "weights": hash_of_weights(artefacts.features),
        "provenance": artefacts.provenance,
    }
    unsigned = Run.model_validate({**document, "hash": ""})
    return unsigned.model_copy(update={"hash": hashlib.blake2b(_encoded(unsigned), digest_size=16).hexdigest()})


def ingest(database: Database[Document], artefacts: Artefacts, run: Run) -> None:
    """Make `run` what readers of the database find under its name; change nothing where it is that already.

    Args:
        database: where to.
        artefacts: where its features and samples come from.
        run: its document, made by `describe`.

    Raises:
        UserError: somebody else ingests the same run.
    """
    for name, fields in INDEXES.items():
        database[name].create_indexes([IndexModel([(field, 1) for field in fields])])
    if not _is_written(database, run):
        _write_content(database, artefacts, run)
    runs = database[RUNS].with_options(write_concern=DURABLE)
    found = runs.find_one({"_id": artefacts.name.id}, {"hash": 1})
    if found is None or found.get("hash") != run.hash:
        runs.replace_one({"_id": artefacts.name.id}, run.model_dump(by_alias=True), upsert=True)
    remove_contents(database, artefacts.name.id, keep=run.content)


def _summarise(artefacts: Artefacts) -> Summary:
    """Hash and count all documents before one is written."""
    # Two runs never share a content, which goes when one of them changes.
    digest = hashlib.blake2b(artefacts.name.id.encode(), digest_size=16)
    columns, features, samples, dead = ColumnBuilder(), 0, 0, 0
    classes: Counter[str] = Counter()
    types: Counter[str] = Counter()
    for feature, details in read_documents(artefacts, content=""):
        encoded = _encoded(details)
        if len(encoded) > LARGEST_DOCUMENT:
            raise UserError(
                f"{artefacts.samples}: the samples of feature {feature.feature} take {len(encoded) / 2**20:.0f} MiB, "
                "and MongoDB takes 16; lower evaluation.features.samples or evaluation.features.window"
            )
        digest.update(_encoded(feature))
        digest.update(encoded)
        columns.add(feature, details)
        features, samples, dead = features + 1, samples + len(details.samples), dead + feature.dead
        classes.update([feature.class_] if feature.class_ else [])
        types.update([feature.type_] if feature.type_ else [])
    counted = {"classes": dict(sorted(classes.items())), "types": dict(sorted(types.items()))}
    counts = Counts(features=features, samples=samples, dead=dead, **counted)
    return Summary(digest.hexdigest(), counts, columns.documents(content=""))


def _write_content(database: Database[Document], artefacts: Artefacts, run: Run) -> None:
    """Write all that belongs to a content; what a killed ingest wrote is there already, and equal."""
    contents = database[CONTENTS].with_options(write_concern=DURABLE)
    begun = {"run": artefacts.name.id, "features": run.latents}
    contents.replace_one({"_id": run.content}, begun, upsert=True)
    documents = progress(read_documents(artefacts, run.content), run.latents, "features")
    columns, terms = ColumnBuilder(), TermBuilder()
    for batch in _batches(documents):
        _insert(database[DETAILS], [_keyed(details) for _, details in batch])
        _insert(database[FEATURES], [_keyed(feature) for feature, _ in batch])
        for feature, details in batch:
            columns.add(feature, details)
            terms.add(feature, details)
    for piece in _pieces(terms.documents(run.content), TERMS_AT_ONCE):
        _insert(database[TERMS], [{"_id": f"{run.content}/{term.term}", **term.model_dump()} for term in piece])
    for column in columns.documents(run.content):
        _insert(database[COLUMNS], [{"_id": f"{run.content}/{column.name}", **column.model_dump()}])
    if database[FEATURES].count_documents({"content": run.content}) != run.latents:
        raise UserError(
            f"database {database.name}: features of {artefacts.name.id} went away while they were written; "
            "is another ingest of the same run at work? run one at a time"
        )
    contents.update_one({"_id": run.content}, {"$set": {"written": True}})


def _pieces(terms: Iterator[Term], size: int) -> Iterator[list[Term]]:
    """Gather terms to be written together."""
    while piece := list(islice(terms, size)):
        yield piece


def _batches(
    documents: Iterable[tuple[Feature, Details]],
) -> Iterator[list[tuple[Feature, Details]]]:
    """Gather documents to be written together, as many as memory takes easily."""
    batch, tokens = [], 0
    for feature, details in documents:
        batch.append((feature, details))
        tokens += sum(len(sample.tokens) for sample in details.samples)
        if len(batch) == BATCH or tokens >= TOKENS_AT_ONCE:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def _insert(collection: Collection[Document], documents: list[Document]) -> None:
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        problems = (error.details or {}).get("writeErrors", [])
        if not problems or any(problem["code"] != DUPLICATE_KEY for problem in problems):
            raise


def _is_written(database: Database[Document], run: Run) -> bool:
    """Tell whether the run's content was written to its end, and whether the end is still there."""
    last = {"_id": f"{run.content}/{run.latents - 1}"}
    column = {"_id": f"{run.content}/{run.columns[-1]}"}
    marks = (
        (CONTENTS, {"_id": run.content, "written": True}),
        (DETAILS, last),
        (FEATURES, last),
        (COLUMNS, column),
    )
    return all(database[name].find_one(mark, {"_id": 1}) for name, mark in marks)


def _keyed(document: Feature | Details) -> Document:
    return {"_id": f"{document.content}/{document.feature}", **document.model_dump(by_alias=True)}


def _encoded(document: Stored) -> bytes:
    return bson.encode(document.model_dump(by_alias=True))
