"""The door to MongoDB: the embedded server or any other, and one clear line where it stays shut."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from pymongo import MongoClient, WriteConcern
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from ontogeny.config.database import EMBEDDED, DatabaseSettings
from ontogeny.database.server import LOG, serving
from ontogeny.errors import UserError

Document: TypeAlias = dict[str, Any]
"""A document as the driver reads and writes it."""

DURABLE = WriteConcern(j=True)
"""For a write that counts only when it, and all that was written before it, would survive whatever ends the server.

Without it, a server that is killed may lose what it acknowledged in its last moments; with it on every write,
SecantusDB waits for the disk at each document.
"""

SELECTION_MS = 5000
"""Milliseconds that a server may take to answer, unless the address says `serverSelectionTimeoutMS`."""

UNAUTHORISED = 13
UNAUTHENTICATED = (18, 8000)
"""Codes of a refused right, and of a refused user name or password (8000 is Atlas's)."""
FAILED = (1, 14031)
"""Codes of what goes wrong inside a server, and of its full disk."""


@contextmanager
def connect(settings: DatabaseSettings, home: Path) -> Iterator[Database[Document]]:
    """Yield the database, its server started if it is the embedded one.

    Args:
        settings: which server, and which database on it.
        home: folder of the embedded server's files.

    Raises:
        UserError: the server does not start, cannot be reached, is no MongoDB, refuses the user, or goes away
            meanwhile; passwords are never named.
    """
    if settings.uri == EMBEDDED:
        with serving(home) as port, _explained(f"{home}: the embedded database", lambda: _mend(home)):
            yield from _database(
                MongoClient("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=SELECTION_MS),
                settings.name,
            )
        return
    name = f"database.uri: {server_name(settings)}"
    with _explained(name, lambda: f"mend the address, start the server, or use {EMBEDDED!r}"):
        yield from _database(_client(settings.address(), name), settings.name)


def server_name(settings: DatabaseSettings) -> str:
    """Name the server: `embedded`, or the hosts of its address without user, password and options."""
    if settings.uri == EMBEDDED:
        return EMBEDDED
    scheme, _, rest = settings.address().partition("://")
    hosts = rest.rpartition("@")[2].partition("/")[0].partition("?")[0]
    return f"{scheme}://{hosts}"


def _database(client: MongoClient[Document], name: str) -> Iterator[Database[Document]]:
    with client:
        client.admin.command("ping")
        yield client[name]


def _client(address: str, name: str) -> MongoClient[Document]:
    """Make the client of an address; the driver's words about a bad one are passed on unless they quote its secrets."""
    options: dict[str, Any] = (
        {} if "serverselectiontimeoutms" in address.lower() else {"serverSelectionTimeoutMS": SELECTION_MS}
    )
    try:
        return MongoClient(address, **options)
    except (ConfigurationError, ValueError, OSError) as error:
        secrets = [part for part in re.split("[:/@]", address.partition("://")[2].rpartition("@")[0]) if part]
        reason = "" if any(secret in str(error) for secret in secrets) else f" ({error})"
        raise UserError(
            f"{name} is no address that MongoDB's driver takes{reason}; expected mongodb://host:port/ or "
            "mongodb://${DB_USER}:${DB_PASSWORD}@host:port/"
        ) from None


@contextmanager
def _explained(name: str, mend: Callable[[], str]) -> Iterator[None]:
    """Turn what a server or a network does wrong into one line; other errors of the driver are ours and stay."""
    try:
        yield
    except PyMongoError as error:
        problem = _problem(error)
        if problem is None:
            raise
        raise UserError(f"{name} {problem}; {mend()}") from error


def _problem(error: PyMongoError) -> str | None:
    text = str(error).partition(" (configured timeouts")[0].partition(", Timeout: ")[0].partition(", full error")[0]
    if isinstance(error, ServerSelectionTimeoutError):
        kind = "is no MongoDB server" if "ProtocolError" in str(error) else "does not answer"
        return f"{kind} ({text})"
    if isinstance(error, ConnectionFailure):
        return f"went away while it was used ({text}); what was visible before still is"
    if isinstance(error, OperationFailure) and error.code in UNAUTHENTICATED:
        return f"refuses the user name or the password ({text})"
    if isinstance(error, OperationFailure) and error.code == UNAUTHORISED:
        return f"does not allow this user to read and write the database ({text})"
    if isinstance(error, OperationFailure) and error.code in FAILED:
        return f"failed ({text}); what was visible before still is"
    return None


def _mend(home: Path) -> str:
    free = shutil.disk_usage(home).free
    return f"its disk has {free / 2**20:.0f} MiB left, and {home / LOG} says more; run again"
