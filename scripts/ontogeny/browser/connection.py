"""The database of the page: opened once, held as long as the page is served, opened again after it went away."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from pymongo.database import Database
from pymongo.errors import PyMongoError

from ontogeny.browser.errors import UnavailableError
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import Document, connect
from ontogeny.errors import UserError

AGAIN_SECONDS = 2.0
"""How long a database that could not be opened is not tried again: requests would queue up behind each try."""


class _Held(NamedTuple):
    context: AbstractContextManager[Database[Document]]
    database: Database[Document]


class Connection:
    """Hands one open database to all requests, each in its own thread."""

    def __init__(self, settings: DatabaseSettings, home: Path) -> None:
        self._settings, self._home = settings, home
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._problem, self._failed_at = "", -AGAIN_SECONDS

    @contextmanager
    def database(self) -> Iterator[Database[Document]]:
        """Yield the database.

        Raises:
            UnavailableError: it cannot be opened, or goes away meanwhile; the next request opens it again.
        """
        held = self._open()
        try:
            yield held.database
        except PyMongoError as error:
            self._drop(held, error)

    def close(self) -> None:
        """Let go of the database; an embedded server that nobody else uses stops."""
        with self._lock:
            held, self._held = self._held, None
        if held:
            held.context.__exit__(None, None, None)

    def _open(self) -> _Held:
        with self._lock:
            if self._held is None:
                if time.monotonic() - self._failed_at < AGAIN_SECONDS:
                    raise UnavailableError(self._problem)
                context = connect(self._settings, self._home)
                try:
                    self._held = _Held(context, context.__enter__())
                except UserError as error:
                    self._problem, self._failed_at = str(error), time.monotonic()
                    raise UnavailableError(self._problem) from error
            return self._held

    def _drop(self, held: _Held, error: PyMongoError) -> NoReturn:
        """Close what failed, and say what the door to the database says of the error."""
        with self._lock:
            is_first = self._held is held
            if is_first:
                self._held = None
        if not is_first:
            # Another request closed it under this one.
            raise UnavailableError("the database went away while it was used; reload the page") from error
        try:
            held.context.__exit__(type(error), error, error.__traceback__)
        except UserError as explained:
            raise UnavailableError(str(explained)) from error
        raise error
