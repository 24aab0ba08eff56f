"""Which features a list shows, and in which order: answered from columns and terms, exactly and at any depth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pymongo.database import Database

from ontogeny.config.base import Settings
from ontogeny.database.columns import ColumnValues, among, between, column_values, ordered
from ontogeny.database.connect import Document
from ontogeny.database.documents import COLUMNS, TERMS, Column, Edit, Run, Scope, Term
from ontogeny.database.edits import edits_of
from ontogeny.database.reading import validated
from ontogeny.database.terms import term_features, words_of
from ontogeny.errors import UserError

NUMBER = "feature"
"""Order by the feature's number, which needs no column."""
HIGHEST = "\U0010ffff"
"""Sorts after every word."""


class Query(Settings):
    """What a list is asked for; the default is every feature by number."""

    words: str = ""
    """Words that a feature must all have, where it fires, among what it promotes, or in an interpretation; `presid*`
    stands for every word that begins so."""
    in_context: bool = False
    """Whether a word may also stand around the place where it fires."""
    order: str = NUMBER
    """Column by which features are ordered, or `feature`."""
    descending: bool = False
    """Largest first."""
    between: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Smallest and largest value of columns of numbers; features without a value are left out."""
    among: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Values of columns of words."""
    bookmarked: bool = False
    """Only bookmarked features."""
    tag: str = ""
    """Only features with this tag."""


def find_features(database: Database[Document], run: Run, query: Query) -> NDArray[np.int64]:
    """List the numbers of all features that a query finds, in its order.

    Args:
        database: where to look.
        run: as `visible_run` found it.
        query: what is asked for.

    Raises:
        UserError: the run has no such column.
    """
    names = {*query.between, *query.among, *({query.order} - {NUMBER})}
    columns = read_columns(database, run, sorted(names))
    kept_L = np.ones(run.latents, dtype=bool)
    for name, (low, high) in query.between.items():
        kept_L &= between(columns[name].values, low, high)
    for name, words in query.among.items():
        kept_L &= among(columns[name], words)
    edits = edits_of(database, run) if query.words or query.bookmarked or query.tag else []
    if query.bookmarked:
        kept_L &= _marked(run, [edit.feature for edit in edits if edit.bookmark])
    if query.tag:
        kept_L &= _marked(run, [edit.feature for edit in edits if query.tag in edit.tags])
    if query.words:
        kept_L &= _with_words(database, run, query, edits)
    chosen_N = np.flatnonzero(kept_L)
    if query.order != NUMBER:
        return ordered(chosen_N, columns[query.order].values, query.descending)
    return chosen_N[::-1] if query.descending else chosen_N


def read_columns(database: Database[Document], run: Run, names: Sequence[str]) -> dict[str, ColumnValues]:
    """Read columns of a run by name.

    Raises:
        UserError: the run has no such column.
    """
    for name in names:
        if name not in run.columns:
            raise UserError(f"run {run.run}: there is no column {name!r}; there are {', '.join(run.columns)}")
    found = database[COLUMNS].find({"_id": {"$in": [f"{run.content}/{name}" for name in names]}})
    columns = {column.name: column_values(column) for column in (validated(Column, document) for document in found)}
    missing = sorted({*names} - columns.keys())
    if missing:
        raise UserError(f"run {run.run}: its column {missing[0]!r} is missing; ingest the run again")
    return columns


def _with_words(database: Database[Document], run: Run, query: Query, edits: Sequence[Edit]) -> NDArray[np.bool_]:
    """Tell which features have every word of a query (shape: [L])."""
    kept_L = np.ones(run.latents, dtype=bool)
    scopes: list[Scope] = ["text", "promoted", "interpretation"]
    if query.in_context:
        scopes.append("context")
    for part in query.words.split():
        for word in words_of(part.removesuffix("*") if len(part) > 1 else part):
            prefix = part.endswith("*") and len(part) > 1
            found = [*_terms(database, run, scopes, word, prefix)]
            typed = [edit.feature for edit in edits if _says(edit, word, prefix)]
            kept_L &= _marked(run, [*found, np.array(typed, dtype=np.int64)])
    return kept_L


def _terms(
    database: Database[Document], run: Run, scopes: Sequence[Scope], word: str, prefix: bool
) -> list[NDArray[np.int64]]:
    if prefix:
        asked = [
            {"content": run.content, "term": {"$gte": f"{scope}/{word}", "$lt": f"{scope}/{word}{HIGHEST}"}}
            for scope in scopes
        ]
    else:
        asked = [{"_id": {"$in": [f"{run.content}/{scope}/{word}" for scope in scopes]}}]
    documents = (document for condition in asked for document in database[TERMS].find(condition))
    return [term_features(validated(Term, document)) for document in documents]


def edit_words(edit: Edit) -> set[str]:
    """List the words by which what people added is found."""
    return set(words_of(" ".join([edit.interpretation, edit.note, *edit.tags])))


def _says(edit: Edit, word: str, prefix: bool) -> bool:
    return any(found.startswith(word) if prefix else found == word for found in edit_words(edit))


def _marked(run: Run, features: Sequence[int] | Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    marked_L = np.zeros(run.latents, dtype=bool)
    for feature in features:
        marked_L[feature] = True
    return marked_L
