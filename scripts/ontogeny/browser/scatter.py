"""Every feature of a run as a point: two quantities against each other."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from pymongo.database import Database

from ontogeny.browser.errors import BadRequestError
from ontogeny.browser.head import RunHead
from ontogeny.browser.parameters import ListQuery
from ontogeny.browser.quantities import Quantity
from ontogeny.database.columns import ColumnValues
from ontogeny.database.connect import Document
from ontogeny.database.query import find_features, read_columns
from ontogeny.randomness import generator
from ontogeny.site_names import step_name
from ontogeny.step_scale import step_scale

PREFERRED = (("emergence_step", "density"), ("relative_norm", "density"), ("peak_site", "density"))
"""Quantities that are shown first, as far as a run has both; else the first two that it has."""
LOGARITHMIC = ("density", "peak_norm", "mean_activation", "max_activation", "context_needed")
"""Quantities whose values span orders of magnitude."""
SPREAD = 1 / 3
"""Of the distance between values of which there are few: how far points are spread by chance, either way."""
FEW = 64
"""Different values up to which points are spread, where half of them or more share theirs with another."""
TICKS = 12
"""Steps that are written along an axis at most."""


@dataclass(frozen=True)
class ScatterPage:
    """All that the scatter shows."""

    head: RunHead
    """The run."""
    query: ListQuery
    """Which features are drawn."""
    x: Quantity
    """Along the page."""
    y: Quantity
    """Up the page."""
    drawn: int
    """Features that have both."""
    found: int
    """Features that the query finds."""
    data: dict[str, Any]
    """What scripts read."""

    @property
    def kept(self) -> list[tuple[str, str]]:
        """Parameters of the query, which another choice of quantities keeps."""
        return parse_qsl(self.query.address())


def chosen_quantities(items: Iterable[tuple[str, str]], head: RunHead) -> tuple[Quantity, Quantity]:
    """Read from an address which two quantities are drawn.

    Raises:
        BadRequestError: the run has none of that name, or fewer than two.
    """
    known = head.quantities
    if len(known) < 2:
        raise BadRequestError("this run has fewer than two quantities of features")
    first = next((pair for pair in PREFERRED if known.keys() >= set(pair)), tuple(list(known)[:2]))
    names = dict(zip(("x", "y"), first, strict=True)) | {name: value for name, value in items if value}
    for name in names.values():
        if name not in known:
            raise BadRequestError(f"parameter x or y: {name[:40]!r} is no quantity of this run")
    return known[names["x"]], known[names["y"]]


def scatter_page(
    database: Database[Document], head: RunHead, query: ListQuery, x: Quantity, y: Quantity
) -> ScatterPage:
    """Gather what the scatter shows.

    Args:
        database: where to read.
        head: the run.
        query: which features are drawn.
        x: along the page.
        y: up the page.
    """
    found_N = np.sort(find_features(database, head.run, query.of_database()))
    coloured = head.axis.has_order and "class" in head.run.columns
    columns = read_columns(database, head.run, [*{x.name, y.name}, *(["class"] if coloured else [])])
    has_L = ~(np.isnan(columns[x.name].values) | np.isnan(columns[y.name].values))
    drawn_N = found_N[has_L[found_N]]
    data = {
        "features": _packed(drawn_N, "<i4"),
        "x": _axis(x, columns[x.name].values[drawn_N]),
        "y": _axis(y, columns[y.name].values[drawn_N]),
        "classes": list(columns["class"].names) if coloured else [],
        "class": _packed(_classes(columns["class"], drawn_N), "<i1") if coloured else "",
    }
    return ScatterPage(head, query, x, y, len(drawn_N), len(found_N), data)


def _axis(quantity: Quantity, values_N: NDArray[np.float64]) -> dict[str, Any]:
    """Place values: steps on their log axis with step 0 apart, what spans orders of magnitude on a log axis."""
    kind: Literal["steps", "log", "linear"] = "linear"
    ticks: list[tuple[float, str]] = []
    place_N = values_N
    if quantity.is_step and len(values_N):
        kind, scale = "steps", step_scale(values_N.astype(int).tolist())
        place_N = scale.positions(values_N)
        written = [*([0] if scale.zero else []), *scale.ticks(TICKS)[0]]
        ticks = [(float(scale.positions(step)), step_name(step)) for step in written]
    elif quantity.name in LOGARITHMIC and (values_N > 0).all() and len(values_N):
        kind, place_N = "log", np.log10(values_N)
    spread = _spread(place_N, quantity.name)
    packed = {"values": _packed(values_N, "<f4"), "places": _packed(place_N + spread, "<f4")}
    return {"kind": kind, "title": quantity.label, "ticks": ticks, "spread": bool(spread.any()), **packed}


def _spread(place_N: NDArray[np.float64], purpose: str) -> NDArray[np.float64]:
    """Move points of quantities with few values apart, always in the same way (shape: [N])."""
    values = np.unique(place_N)
    if not 1 < len(values) <= min(FEW, len(place_N) // 2):
        return np.zeros(len(place_N))
    room = SPREAD * float(np.diff(values).min())
    moved_N: NDArray[np.float64] = generator(0, "scatter", purpose).uniform(-room, room, len(place_N))
    return moved_N


def _classes(column: ColumnValues, drawn_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Number the class of each point, -1 where it has none (shape: [N])."""
    value_N = column.values[drawn_N]
    return np.where(np.isnan(value_N), -1.0, value_N)


def _packed(values: NDArray[np.generic], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()
