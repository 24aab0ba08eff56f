"""Two runs side by side: what was measured on both, site by site, and how their features are distributed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymongo.database import Database

from ontogeny.browser.axis import Axis
from ontogeny.browser.errors import BadRequestError
from ontogeny.browser.head import RunHead, run_head
from ontogeny.browser.quantities import number, percent
from ontogeny.database.connect import Document
from ontogeny.database.documents import Measurement, Run, RunName
from ontogeny.database.query import read_columns
from ontogeny.database.reading import visible_run, visible_runs

BINS = 40
"""Bins of a distribution."""
PER_SITE = {
    "fvu": "FVU",
    "l0": "L0",
    "recovered_mean": "Loss recovered, against mean ablation",
    "recovered_zero": "Loss recovered, against zero ablation",
}
"""Metrics that are drawn by site, as far as either run has them."""
DISTRIBUTIONS = {"density": "Density", "peak_norm": "Peak norm"}
"""Quantities whose distributions are drawn, on a log axis."""


@dataclass(frozen=True)
class ComparePage:
    """All that a comparison shows."""

    heads: tuple[RunHead, ...]
    """The run, and the one that it is compared with, if one was chosen."""
    others: tuple[RunName, ...]
    """Runs of the database that it can be compared with, those of its study first."""
    facts: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Name, help and values of what is said of both."""
    data: dict[str, Any]
    """What scripts read."""


def compare_page(database: Database[Document], head: RunHead, other: RunName | None) -> ComparePage:
    """Gather what a comparison shows.

    Args:
        database: where to read.
        head: the run.
        other: the run that it is compared with; None if none was chosen yet.

    Raises:
        NotFoundError: there is no such run.
    """
    names = [name for name in visible_runs(database) if name != head.name]
    names.sort(key=lambda name: (name.study != head.name.study, name.dictionary != head.name.dictionary, name))
    heads = (head,) if other is None else (head, run_head(visible_run(database, other)))
    data = {
        "runs": [_named(one, heads) for one in heads],
        "metrics": _by_site([one.run for one in heads], heads),
        "distributions": _distributions(database, [one.run for one in heads]),
        "classes": _classes(heads),
    }
    return ComparePage(heads, tuple(names), _facts(heads), data if other else {})


def read_other(value: str) -> RunName | None:
    """Read the name of a run, `<study>/<dictionary>/<run>`; None where nothing is said.

    Raises:
        BadRequestError: it is no such name.
    """
    if not value:
        return None
    parts = value.split("/")
    if len(parts) != 3 or not all(parts):
        raise BadRequestError(f"parameter with: {value[:80]!r} is no run; expected <study>/<dictionary>/<run>")
    return RunName(*parts)


def _named(head: RunHead, heads: Sequence[RunHead]) -> str:
    """Name a run by what tells the two apart."""
    dictionaries = {one.name.dictionary for one in heads}
    studies = {one.name.study for one in heads}
    parts = [head.name.study] * (len(studies) > 1) + [head.name.dictionary] * (len(dictionaries) > 1)
    same = len({one.name.run for one in heads}) == 1
    return " ".join([*parts, *([] if same and parts else [head.name.run])])


def _facts(heads: Sequence[RunHead]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    rows = [
        ("Sites", "What the dictionary spans.", [head.sites for head in heads]),
        ("Latents", "Number of features.", [f"{head.run.latents:,}" for head in heads]),
        ("Sparsity", "How sparse it was asked to be.", [head.sparsity for head in heads]),
        ("Seed", "Seed of its weights and of the order of rows.", [str(head.run.seed) for head in heads]),
        ("FVU", "Fraction of variance unexplained, all sites together.", [_pooled(head.run, "fvu") for head in heads]),
        ("L0", "Features that fire at a row.", [_pooled(head.run, "l0") for head in heads]),
        (
            "Dead",
            "Features that fire on no heldout row.",
            [percent(head.run.counts.dead / head.run.counts.features) for head in heads],
        ),
        ("Heldout rows", "Rows that all of this was measured on.", [f"{head.run.rows:,}" for head in heads]),
        ("tau", "Threshold of emergence.", [number(head.run.threshold) for head in heads]),
    ]
    return tuple((name, said, tuple(values)) for name, said, values in rows)


def _pooled(run: Run, name: str) -> str:
    return number(_value(run.metrics, name))


def _value(metrics: Sequence[Measurement], name: str) -> float | None:
    return next((measured.value for measured in metrics if measured.metric == name), None)


def _by_site(runs: Sequence[Run], heads: Sequence[RunHead]) -> list[dict[str, Any]]:
    """List the metrics of both runs along one axis of sites where the two are alike, else each along its own."""
    drawn = []
    for metric, label in PER_SITE.items():
        lines = [_line(run, head.axis, metric) for run, head in zip(runs, heads, strict=True)]
        if any(value is not None for line in lines for value in line["values"]):
            drawn.append({"label": label, "lines": lines})
    return drawn


def _line(run: Run, axis: Axis, metric: str) -> dict[str, Any]:
    values = axis.arranged([_value(site.metrics, metric) for site in run.sites])
    return {"names": axis.names, "steps": [run.sites[n].step for n in axis.order], "kind": axis.kind, "values": values}


def _distributions(database: Database[Document], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Count features in bins that both runs share, on a log axis."""
    drawn = []
    for name, label in DISTRIBUTIONS.items():
        values = [_positive(read_columns(database, run, [name])[name].values) for run in runs if name in run.columns]
        together = np.concatenate([np.empty(0), *values])
        if not len(together) or len(values) < len(runs):
            continue
        edges = np.linspace(np.log10(together.min()), np.log10(together.max()) + 1e-9, BINS + 1)
        counts = [np.histogram(np.log10(value), edges)[0].tolist() for value in values]
        drawn.append({"label": label, "edges": edges.tolist(), "counts": counts})
    return drawn


def _positive(values_L: NDArray[np.float64]) -> NDArray[np.float64]:
    return values_L[values_L > 0]


def _classes(heads: Sequence[RunHead]) -> list[dict[str, Any]]:
    """Count the features of each class, in runs whose sites have an order."""
    if not all(head.axis.has_order for head in heads):
        return []
    names = dict.fromkeys(name for head in heads for name in head.run.counts.classes)
    return [{"label": name, "counts": [head.run.counts.classes.get(name, 0) for head in heads]} for name in names]
