"""What readers ask of the database by name or number; lists are asked for by `query`."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError
from pymongo.database import Database

from ontogeny.config.base import Settings
from ontogeny.database.connect import Document
from ontogeny.database.documents import DETAILS, FEATURES, RUNS, Run, RunName
from ontogeny.database.feature_documents import Details, Feature
from ontogeny.errors import UserError

StoredT = TypeVar("StoredT", bound=Settings)


class NotFoundError(UserError):
    """What was asked for is not in the database."""


def visible_runs(database: Database[Document]) -> list[RunName]:
    """Name all runs that can be read, in alphabetical order."""
    found = database[RUNS].find({}, {"study": 1, "dictionary": 1, "run": 1, "_id": 0})
    return sorted(RunName(**document) for document in found)


def visible_run(database: Database[Document], name: RunName) -> Run:
    """Find a run, whose `content` all other questions follow.

    Raises:
        NotFoundError: there is no such run.
        UserError: another version of Ontogeny stored it.
    """
    found = database[RUNS].find_one({"_id": name.id})
    if found is None:
        raise NotFoundError(f"database {database.name}: there is no run {name.id}; ingest it with `make database`")
    return validated(Run, found)


def read_features(database: Database[Document], run: Run, numbers: Sequence[int]) -> list[Feature]:
    """Read features by number, in the order asked for.

    Raises:
        NotFoundError: the run has no such feature.
    """
    found = database[FEATURES].find({"_id": {"$in": [f"{run.content}/{number}" for number in numbers]}})
    by_number = {feature.feature: feature for feature in (validated(Feature, document) for document in found)}
    for number in numbers:
        if number not in by_number:
            raise _no_feature(run, number)
    return [by_number[number] for number in numbers]


def read_details(database: Database[Document], run: Run, feature: int) -> Details:
    """Read what the page of a feature shows besides.

    Raises:
        NotFoundError: the run has no such feature.
    """
    found = database[DETAILS].find_one({"_id": f"{run.content}/{feature}"})
    if found is None:
        raise _no_feature(run, feature)
    return validated(Details, found)


def validated(kind: type[StoredT], document: Document) -> StoredT:
    """Check a document against its model.

    Raises:
        UserError: another version of Ontogeny stored it, or it was changed by something else.
    """
    version, expected = document.get("schema_version"), kind.model_fields["schema_version"].default
    if version != expected:
        raise UserError(f"{document['_id']}: its version is {version}, expected {expected}; ingest the run again")
    try:
        return kind.model_validate({key: value for key, value in document.items() if key != "_id"})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{document['_id']}: {place}: {first['msg']}; ingest the run again") from None


def _no_feature(run: Run, feature: int) -> NotFoundError:
    return NotFoundError(f"run {run.run}: there is no feature {feature}; expected 0 to {run.latents - 1}")
