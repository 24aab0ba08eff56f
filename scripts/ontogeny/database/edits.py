"""What people add to features: bookmarks, tags, interpretations and notes, kept while tables are made anew."""

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ontogeny.config.base import Settings
from ontogeny.database.connect import DURABLE, Document
from ontogeny.database.documents import EDITS, Edit, Run, RunName
from ontogeny.database.reading import NotFoundError, validated
from ontogeny.errors import UserError

Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40, pattern=r"^[^,\n]+$")]
"""A word or a few."""


class ConflictError(UserError):
    """Somebody else changed the same feature meanwhile."""


class Change(Settings):
    """What is changed at a feature; what is left out stays."""

    bookmark: bool | None = None
    """Whether it is bookmarked."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=20)] | None = None
    """Its tags."""
    interpretation: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)] | None = None
    """What it stands for."""
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=20_000)] | None = None
    """Anything else."""

    @field_validator("tags")
    @classmethod
    def _in_order(cls, tags: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if tags is None else tuple(sorted(set(tags)))


def edits_of(database: Database[Document], run: Run) -> list[Edit]:
    """Read what people added to the features of a run, by number."""
    found = database[EDITS].find({"weights": run.weights})
    return sorted((validated(Edit, document) for document in found), key=lambda edit: edit.feature)


def edit_of(database: Database[Document], run: Run, feature: int) -> Edit:
    """Read what people added to one feature; an empty edit where nobody did."""
    found = database[EDITS].find_one({"_id": f"{run.weights}/{feature}"})
    return _nothing(run, feature) if found is None else validated(Edit, found)


def change(database: Database[Document], run: Run, feature: int, wanted: Change, revision: int | None = None) -> Edit:
    """Change what is added to a feature, on disk before this returns.

    Args:
        database: where to.
        run: as `visible_run` found it.
        feature: number of the latent.
        wanted: what is changed.
        revision: of the edit that the change was made upon; None to change whatever is there.

    Returns:
        What is there now.

    Raises:
        NotFoundError: the run has no such feature.
        ConflictError: the edit has another revision by now.
    """
    if not 0 <= feature < run.latents:
        raise NotFoundError(f"run {run.run}: there is no feature {feature}; expected 0 to {run.latents - 1}")
    edits = database[EDITS].with_options(write_concern=DURABLE)
    key = f"{run.weights}/{feature}"
    while True:
        before = edit_of(database, run, feature)
        if revision is not None and before.revision != revision:
            raise ConflictError(
                f"feature {feature} was changed elsewhere since this page was opened; reload it and write again"
            )
        said = {name: list(value) if name == "tags" else value for name, value in wanted if value is not None}
        after = before.model_copy(update={**said, "revision": before.revision + 1})
        try:
            replaced = edits.replace_one(
                {"_id": key, "revision": before.revision}, after.model_dump(), upsert=before.revision == 0
            )
        except DuplicateKeyError:
            continue
        if replaced.matched_count or replaced.upserted_id is not None:
            return after


def _nothing(run: Run, feature: int) -> Edit:
    return Edit(weights=run.weights, feature=feature, run=RunName(run.study, run.dictionary, run.run).id)
