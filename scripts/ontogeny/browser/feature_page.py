"""The page of a feature."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymongo.database import Database

from ontogeny.browser.drawing import Sparkline, sparkline
from ontogeny.browser.feature_data import feature_data
from ontogeny.browser.head import RunHead
from ontogeny.browser.parameters import ListQuery
from ontogeny.browser.quantities import Quantity, number
from ontogeny.browser.samples import SampleGroup, sample_groups
from ontogeny.database.columns import ColumnBuilder, column_values
from ontogeny.database.connect import Document
from ontogeny.database.documents import Edit
from ontogeny.database.edits import edit_of
from ontogeny.database.feature_documents import Details, Feature
from ontogeny.database.reading import read_details, read_features


@dataclass(frozen=True)
class Neighbour:
    """A feature with a similar decoder."""

    feature: Feature
    """Its document."""
    cosine: str
    """Cosine of the two decoders over all sites."""
    spark: Sparkline | None
    """Its norms over sites."""


@dataclass(frozen=True)
class Place:
    """Where a feature is in the list that it was found in."""

    position: int | None
    """Its place from 1; None where the list has it not, whose neighbours by number take their place."""
    found: int
    """Features of the list."""
    page: int
    """Page of the list that shows it."""
    previous: int | None
    """Feature before it."""
    next: int | None
    """Feature after it."""


@dataclass(frozen=True)
class FeaturePage:
    """All that the page of a feature shows."""

    head: RunHead
    """The run."""
    query: ListQuery
    """The list that it was found in."""
    place: Place
    """Where it is in this list."""
    feature: Feature
    """Its document."""
    facts: tuple[tuple[Quantity, str], ...]
    """Its quantities."""
    groups: tuple[SampleGroup, ...]
    """Samples."""
    neighbours: tuple[Neighbour, ...]
    """Features with similar decoders."""
    data: dict[str, Any]
    """What scripts read."""
    edit: Edit
    """What people added."""
    csrf: str
    """What a change has to send along; empty where nothing can be changed."""

    @property
    def has_readings(self) -> bool:
        """Whether samples say what each site adds."""
        return any(sample["readings"] for sample in self.data["samples"])


def feature_page(
    database: Database[Document], head: RunHead, feature: int, query: ListQuery, found_N: NDArray[np.int64], csrf: str
) -> FeaturePage:
    """Gather what the page of a feature shows.

    Args:
        database: where to read.
        head: the run.
        feature: number of the latent.
        query: list that it was found in.
        found_N: numbers of the features of that list, in its order.
        csrf: what a change has to send along.

    Raises:
        NotFoundError: the run has no such feature.
    """
    details = read_details(database, head.run, feature)
    found, *neighbours = read_features(database, head.run, [feature, *details.neighbours])
    return FeaturePage(
        head=head,
        query=query,
        place=place_in_list(head, feature, query, found_N),
        feature=found,
        facts=_facts(head, found, details),
        groups=sample_groups(details.samples, found.max_activation),
        neighbours=_neighbours(head, neighbours, details),
        data=feature_data(head, found, details),
        edit=edit_of(database, head.run, feature),
        csrf=csrf,
    )


def place_in_list(head: RunHead, feature: int, query: ListQuery, found_N: NDArray[np.int64]) -> Place:
    """Find a feature in a list, and its neighbours there."""
    where = np.flatnonzero(found_N == feature)
    if len(where):
        at = int(where[0])
        before = int(found_N[at - 1]) if at else None
        after = int(found_N[at + 1]) if at + 1 < len(found_N) else None
        return Place(at + 1, len(found_N), at // query.size + 1, before, after)
    before, after = feature - 1, feature + 1
    return Place(None, len(found_N), 1, before if before >= 0 else None, after if after < head.run.latents else None)


def _facts(head: RunHead, feature: Feature, details: Details) -> tuple[tuple[Quantity, str], ...]:
    """Write the quantities that a feature has, as the columns of its run hold them."""
    columns = ColumnBuilder()
    columns.add(feature, details)
    values = {column.name: float(column_values(column).values[0]) for column in columns.documents(content="")}
    return tuple((known, known.write(values[name])) for name, known in head.quantities.items() if name in values)


def _neighbours(head: RunHead, features: list[Feature], details: Details) -> tuple[Neighbour, ...]:
    return tuple(
        Neighbour(feature, number(cosine), sparkline(head.axis, feature, head.run.threshold))
        for feature, cosine in zip(features, details.neighbour_cosines, strict=True)
    )
