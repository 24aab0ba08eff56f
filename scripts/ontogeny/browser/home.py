"""The first page: every run in the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pymongo.database import Database

from ontogeny.browser.head import RunHead, run_head
from ontogeny.browser.quantities import number, percent
from ontogeny.database.connect import Document
from ontogeny.database.documents import Measurement, RunName
from ontogeny.database.reading import NotFoundError, visible_run, visible_runs
from ontogeny.errors import UserError


@dataclass(frozen=True)
class RunRow:
    """A run in the table of runs."""

    name: RunName
    """Its name."""
    head: RunHead | None
    """The run, if it can be read."""
    problem: str
    """Why it cannot be read."""
    fvu: str
    """Fraction of variance unexplained, over all sites."""
    l0: str
    """Features that fire at a row."""
    dead: str
    """Share of features that never fire."""
    classes: tuple[tuple[str, int, float], ...]
    """Classes with their features and their share of these."""


@dataclass(frozen=True)
class HomePage:
    """All runs by study, that of the server first."""

    study: str
    """The server's own study."""
    studies: tuple[tuple[str, tuple[RunRow, ...]], ...]
    """Name and runs of each study."""


def home_page(database: Database[Document], study: str) -> HomePage:
    """Gather what the first page shows; a run that another version stored says so in its row."""
    names = sorted(visible_runs(database), key=lambda name: (name.study != study, name))
    rows = [row for name in names if (row := _row(database, name))]
    grouped = groupby(rows, key=lambda row: row.name.study)
    return HomePage(study, tuple((name, tuple(group)) for name, group in grouped))


def _row(database: Database[Document], name: RunName) -> RunRow | None:
    try:
        run = visible_run(database, name)
    except NotFoundError:
        # It was removed since the names were read.
        return None
    except UserError as error:
        return RunRow(name, None, str(error), "", "", "", ())
    head = run_head(run)
    total = sum(run.counts.classes.values())
    classes = tuple((kind, count, count / total) for kind, count in run.counts.classes.items())
    return RunRow(
        name=name,
        head=head,
        problem="",
        fvu=number(_measured(run.metrics, "fvu")),
        l0=number(_measured(run.metrics, "l0")),
        dead=percent(run.counts.dead / run.counts.features),
        classes=classes if head.axis.has_order else (),
    )


def _measured(metrics: Sequence[Measurement], name: str) -> float | None:
    return next((measured.value for measured in metrics if measured.metric == name), None)
