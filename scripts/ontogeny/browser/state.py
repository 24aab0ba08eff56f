"""What all requests share."""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from pymongo.database import Database

from ontogeny.browser.connection import Connection
from ontogeny.browser.feature_list import column_extents
from ontogeny.browser.head import RunHead, run_head
from ontogeny.browser.rendering import Renderer
from ontogeny.browser.typed_text import TextReaders
from ontogeny.database.connect import Document
from ontogeny.database.documents import RunName
from ontogeny.database.reading import visible_run

KEPT = 32
"""Runs whose extents are remembered."""

Extents = dict[str, tuple[float, float] | None]


class ExtentsCache:
    """Remembers the extents of quantities, which a content never changes."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Extents] = OrderedDict()
        self._lock = Lock()

    def of(self, database: Database[Document], head: RunHead) -> Extents:
        """Look up the extents of a run's quantities, reading its columns the first time."""
        content = head.run.content
        with self._lock:
            found = self._known.get(content)
        if found is None:
            found = column_extents(database, head)
            with self._lock:
                self._known[content] = found
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        return found


@dataclass(frozen=True)
class State:
    """The database, the templates, and where the study is."""

    connection: Connection
    """The database."""
    renderer: Renderer
    """The templates."""
    study: str
    """Name of the study of the server."""
    root: Path
    """Its results root."""
    readers: TextReaders
    """Dictionaries and models of the study, for texts that are typed."""
    figures: tuple[str, ...]
    """Figures that the study can draw."""
    extents: ExtentsCache = field(default_factory=ExtentsCache)
    """What is known of the quantities of runs."""


def find_run(database: Database[Document], name: RunName) -> RunHead:
    """Find a run by name.

    Raises:
        NotFoundError: there is none.
    """
    return run_head(visible_run(database, name))
