"""What readers ask of the database; every answer is one range of an index, or one document by its `_id`."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import ValidationError
from pymongo.database import Database

from ontogeny.database.connect import Document
from ontogeny.database.documents import (
    FEATURES,
    RUNS,
    SAMPLES,
    VERSION,
    Feature,
    FeatureSamples,
    Run,
    RunName,
    Sample,
    Stored,
)
from ontogeny.errors import UserError

StoredT = TypeVar("StoredT", bound=Stored)

Order = Literal["feature", "density", "emergence_step", "peak_step", "peak_norm"]
"""What a list of features can be ordered by: a field of `documents.RANKED`, or the number."""

Selector = Literal["feature", "density", "emergence_step", "peak_step", "class"]
"""What features can be selected by: a field of `documents.INDEXED`."""


def visible_runs(database: Database[Document]) -> list[RunName]:
    """Name all runs that can be read, in alphabetical order."""
    found = database[RUNS].find({}, {"study": 1, "dictionary": 1, "run": 1, "_id": 0})
    return sorted(RunName(**document) for document in found)


def visible_run(database: Database[Document], name: RunName) -> Run:
    """Find a run, whose `content` all other questions follow.

    Raises:
        UserError: there is no such run, or another version of Ontogeny stored it.
    """
    found = database[RUNS].find_one({"_id": name.id})
    if found is None:
        raise UserError(f"database {database.name}: there is no run {name.id}; ingest it with `results/database/`")
    return _validated(Run, found)


def features(
    database: Database[Document],
    run: Run,
    order: Order = "feature",
    start: int = 0,
    stop: int | None = None,
    descending: bool = False,
) -> list[Feature]:
    """Read a page of a run's features.

    Args:
        database: where to look.
        run: as `visible_run` found it.
        order: what they are ordered by; equals are in order of their numbers.
        start: first place in that order, from 0.
        stop: place after the last; all that follow if left out.
        descending: count places from the other end.
    """
    stop = run.latents if stop is None else min(stop, run.latents)
    low, high = (run.latents - stop, run.latents - start) if descending else (start, stop)
    rank = "feature" if order == "feature" else f"rank_{order}"
    found = _read(database, run, {rank: {"$gte": low, "$lt": high}})
    return sorted(found, key=lambda feature: int(getattr(feature, rank)), reverse=descending)


def select(
    database: Database[Document], run: Run, field: Selector, low: float | str, high: float | str | None = None
) -> list[Feature]:
    """Read all features of a run whose `field` is from `low` to `high`, or is `low`, by number.

    Args:
        database: where to look.
        run: as `visible_run` found it.
        field: what they are selected by.
        low: smallest value, or the only one.
        high: largest value.
    """
    found = _read(database, run, {field: low if high is None else {"$gte": low, "$lte": high}})
    return sorted(found, key=lambda feature: feature.feature)


def feature_samples(database: Database[Document], run: Run, feature: int) -> list[Sample]:
    """Read the samples of a feature, strongest first.

    Raises:
        UserError: the run has no such feature.
    """
    found = database[SAMPLES].find_one({"_id": f"{run.content}/{feature}"})
    if found is None:
        raise UserError(f"run {run.run}: there is no feature {feature}; expected 0 to {run.latents - 1}")
    return _validated(FeatureSamples, found).samples


def _read(database: Database[Document], run: Run, condition: Mapping[str, Any]) -> list[Feature]:
    found = database[FEATURES].find({"content": run.content, **condition})
    return [_validated(Feature, document) for document in found]


def _validated(kind: type[StoredT], document: Document) -> StoredT:
    version = document.get("schema_version")
    if version != VERSION:
        raise UserError(f"{document['_id']}: its version is {version}, expected {VERSION}; ingest the run again")
    try:
        return kind.model_validate({key: value for key, value in document.items() if key != "_id"})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{document['_id']}: {place}: {first['msg']}; ingest the run again") from None
