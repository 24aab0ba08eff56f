"""The list of features: one page of what a query finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymongo.database import Database

from ontogeny.browser.drawing import Sparkline, sparkline
from ontogeny.browser.head import RunHead
from ontogeny.browser.parameters import ListQuery
from ontogeny.browser.quantities import Quantity, in_documents, value_of
from ontogeny.browser.tokens import Token, shaded, visible
from ontogeny.database.columns import ColumnValues
from ontogeny.database.connect import Document
from ontogeny.database.documents import Edit
from ontogeny.database.edits import edits_of
from ontogeny.database.feature_documents import Feature
from ontogeny.database.query import find_features, read_columns
from ontogeny.database.reading import NotFoundError, read_features

SHOWN = (
    "emergence_step",
    "peak_step",
    "emergence_site",
    "peak_site",
    "relative_norm",
    "decoder_cosine",
    "density",
    "peak_norm",
)
"""Quantities that every list shows, as far as the run has them; the one by which it is ordered joins them."""


@dataclass(frozen=True)
class Row:
    """A feature in a list."""

    feature: Feature
    """Its document."""
    spark: Sparkline | None
    """Its norms over sites."""
    snippet: tuple[Token, ...]
    """Where it fires most."""
    promoted: tuple[str, ...]
    """What it promotes."""
    values: tuple[str, ...]
    """Its quantities, one for each of the list."""
    edit: Edit | None
    """What people added."""

    @property
    def says(self) -> str:
        """What somebody, or else a language model, says that it stands for."""
        if self.edit and self.edit.interpretation:
            return self.edit.interpretation
        return self.feature.interpretation.explanation if self.feature.interpretation else ""


@dataclass(frozen=True)
class ListPage:
    """One page of a list."""

    head: RunHead
    """The run."""
    query: ListQuery
    """What was asked for."""
    found: int
    """Features that the query finds."""
    first: int
    """Place of the first one shown, from 1."""
    pages: int
    """Number of pages."""
    rows: tuple[Row, ...]
    """Features of the page."""
    columns: tuple[Quantity, ...]
    """Quantities that are shown."""
    extents: Mapping[str, tuple[float, float] | None]
    """Smallest and largest value of each quantity in the run; None where no feature has one."""
    tags: tuple[str, ...]
    """Tags that features of the run have."""
    csrf: str
    """What a change has to send along; empty where nothing can be changed."""

    @property
    def promotes(self) -> bool:
        """Whether features of the page say what they promote."""
        return any(row.promoted for row in self.rows)


def list_page(
    database: Database[Document],
    head: RunHead,
    query: ListQuery,
    extents: Mapping[str, tuple[float, float] | None],
    csrf: str,
) -> ListPage:
    """Gather one page of a list.

    Args:
        database: where to read.
        head: the run.
        query: what is asked for.
        extents: what `column_extents` found for the run.
        csrf: what a change has to send along.

    Raises:
        NotFoundError: there are not so many pages.
    """
    found = find_features(database, head.run, query.of_database())
    pages = max(-(-len(found) // query.size), 1)
    if query.page > pages:
        raise NotFoundError(f"page {query.page:,}: there are {pages:,} pages of {query.size} features")
    start = (query.page - 1) * query.size
    edits = {edit.feature: edit for edit in edits_of(database, head.run)}
    columns = shown_columns(head, query)
    return ListPage(
        head=head,
        query=query,
        found=len(found),
        first=start + 1 if len(found) else 0,
        pages=pages,
        rows=_rows(database, head, found[start : start + query.size], columns, edits),
        columns=columns,
        extents=extents,
        tags=tuple(sorted({tag for edit in edits.values() for tag in edit.tags})),
        csrf=csrf,
    )


def column_extents(database: Database[Document], head: RunHead) -> dict[str, tuple[float, float] | None]:
    """Find the smallest and the largest value of each quantity of a run."""
    columns = read_columns(database, head.run, list(head.quantities))
    return {name: _extent(columns[name].values) for name in head.quantities}


def shown_columns(head: RunHead, query: ListQuery) -> tuple[Quantity, ...]:
    """Choose the quantities that a list shows."""
    names = [name for name in SHOWN if name in head.quantities]
    if query.order in head.quantities and query.order not in names:
        names.append(query.order)
    return tuple(head.quantities[name] for name in names)


def _rows(
    database: Database[Document],
    head: RunHead,
    chosen_N: NDArray[np.int64],
    columns: Sequence[Quantity],
    edits: Mapping[int, Edit],
) -> tuple[Row, ...]:
    features = read_features(database, head.run, chosen_N.tolist())
    read = read_columns(database, head.run, [column.name for column in columns if not in_documents(column.name)])
    return tuple(_row(head, feature, columns, read, edits.get(feature.feature)) for feature in features)


def _row(
    head: RunHead,
    feature: Feature,
    columns: Sequence[Quantity],
    read: Mapping[str, ColumnValues],
    edit: Edit | None,
) -> Row:
    snippet = feature.snippet
    return Row(
        feature=feature,
        spark=sparkline(head.axis, feature, head.run.threshold),
        snippet=shaded(snippet.texts, snippet.activations, feature.max_activation) if snippet else (),
        promoted=tuple(visible(text) for text in feature.promoted),
        values=tuple(column.write(value_of(feature, column.name, read)) for column in columns),
        edit=edit,
    )


def _extent(values_L: NDArray[np.float64]) -> tuple[float, float] | None:
    present = values_L[~np.isnan(values_L)]
    return (float(present.min()), float(present.max())) if len(present) else None
