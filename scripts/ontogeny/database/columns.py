"""Columns: one number of every feature of a run, by which lists are ordered and filtered and scatters drawn."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ontogeny.database.documents import Column
from ontogeny.database.feature_documents import Attribution, Details, Feature, FeatureClass, FeatureType

WORDS: Mapping[str, tuple[str, ...]] = {"class": get_args(FeatureClass), "type": get_args(FeatureType)}
"""Columns of words, and their values."""

NUMBERS: Mapping[str, Callable[[Feature], float | None]] = {
    "density": lambda feature: feature.density,
    "mean_activation": lambda feature: feature.mean_activation,
    "max_activation": lambda feature: feature.max_activation,
    "peak_norm": lambda feature: feature.peak_norm,
    "peak_site": lambda feature: feature.peak_site,
    "peak_step": lambda feature: feature.peak_step,
    "emergence_site": lambda feature: feature.emergence_site,
    "emergence_step": lambda feature: feature.emergence_step,
    "persistence": lambda feature: feature.persistence,
    "dead": lambda feature: feature.dead,
    "context_needed": lambda feature: feature.context_needed,
}
"""Columns of numbers that every feature may have; those of interpretations, of two sites and of tasks join them."""

TWO_SITES = ("relative_norm", "decoder_cosine")
"""Columns of runs over two sites: share of the second site's norm in both, and cosine of the two decoders."""

ATTRIBUTION = "attribution/"
"""Begins the columns `attribution/<model>/<task>`: the largest attribution over sites, by magnitude."""


class ColumnValues(NamedTuple):
    """A column as it is used."""

    values: NDArray[np.float64]
    """Numbers, not a number where absent; of a column of words, indices of `names` (shape: [L])."""
    names: tuple[str, ...]
    """Values of a column of words; else empty."""


class ColumnBuilder:
    """Gathers the columns of a run, feature by feature."""

    def __init__(self) -> None:
        self._parts: dict[str, list[float]] = {}
        self._features = 0

    def add(self, feature: Feature, details: Details) -> None:
        """Add the next feature."""
        found: dict[str, float | None] = {name: read(feature) for name, read in NUMBERS.items()}
        for name, value in (("class", feature.class_), ("type", feature.type_)):
            found[name] = None if value is None else WORDS[name].index(value)
        if feature.interpretation:
            scores = feature.interpretation
            found |= {"complexity": scores.complexity, "detection": scores.detection, "fuzzing": scores.fuzzing}
        if len(feature.decoder_norms) == 2 and feature.peak_norm > 0:
            found["relative_norm"] = feature.decoder_norms[1] / sum(feature.decoder_norms)
            found["decoder_cosine"] = details.rotation[1] if details.rotation else None
        for attribution in details.attributions:
            found[attribution_column(attribution)] = max(attribution.values, key=abs, default=None)
        for name, number in found.items():
            if number is not None:
                column = self._parts.setdefault(name, [])
                column.extend([np.nan] * (self._features - len(column)))
                column.append(float(number))
        self._features += 1

    def documents(self, content: str) -> list[Column]:
        """Make the documents of all columns that hold a number, by name."""
        found = []
        for name, column in sorted(self._parts.items()):
            values_L = np.full(self._features, np.nan)
            values_L[: len(column)] = column
            values = values_L.astype("<f8").tobytes()
            found.append(Column(content=content, name=name, values=values, names=list(WORDS.get(name, ()))))
        return found


def attribution_column(attribution: Attribution) -> str:
    """Name the column of a task."""
    return f"{ATTRIBUTION}{attribution.model}/{attribution.task}"


def column_values(column: Column) -> ColumnValues:
    """Unpack a column."""
    return ColumnValues(np.frombuffer(column.values, dtype="<f8"), tuple(column.names))


def ordered(chosen_N: NDArray[np.int64], values_L: NDArray[np.float64], descending: bool) -> NDArray[np.int64]:
    """Order features by a column, absent values last either way, equals by number.

    Args:
        chosen_N: numbers of features, ascending.
        values_L: the column.
        descending: largest first.
    """
    key_N = values_L[chosen_N]
    return chosen_N[np.argsort(-key_N if descending else key_N, kind="stable")]


def between(values_L: NDArray[np.float64], low: float | None, high: float | None) -> NDArray[np.bool_]:
    """Tell which features have a value from `low` to `high`, either of which may be open (shape: [L])."""
    low, high = (-np.inf if low is None else low), (np.inf if high is None else high)
    return (values_L >= low) & (values_L <= high)


def among(column: ColumnValues, words: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which features have one of some words (shape: [L])."""
    return np.isin(column.values, [column.names.index(word) for word in words if word in column.names])
