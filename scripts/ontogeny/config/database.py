"""Where features are stored."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote_plus

from pydantic import StringConstraints, field_validator

from ontogeny.config.base import Settings
from ontogeny.errors import UserError

EMBEDDED = "embedded"

DatabaseName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
"""A name that MongoDB takes for a database: up to 63 letters, digits, `_` and `-`."""

_SCHEMES = ("mongodb://", "mongodb+srv://")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*)")


class DatabaseSettings(Settings):
    """A MongoDB server.

    Passwords belong into the environment or into a file: in `mongodb://${DB_USER}:${DB_PASSWORD}@host`, every `${NAME}`
    stands for what `credentials` says of NAME, or else for the environment variable NAME. Both are read when a command
    connects, and written nowhere.
    """

    uri: str = EMBEDDED
    """`embedded`: the study's own server; or a `mongodb://` or `mongodb+srv://` address, `${NAME}` in it as above."""
    credentials: str | None = None
    """File of lines `NAME=value` for the `${NAME}` of `uri`, such as `~/.ontogeny`; readable by its owner alone."""
    name: DatabaseName = "ontogeny"
    """Database on that server."""

    @field_validator("uri")
    @classmethod
    def _check_scheme(cls, uri: str) -> str:
        if uri != EMBEDDED and not uri.startswith(_SCHEMES):
            raise ValueError(f"expected 'embedded' or an address that begins with {' or '.join(_SCHEMES)}")
        return uri

    def problems(self) -> Iterator[str]:
        """Say what must not be in a study: a password, which would be on the command line of every job."""
        user, found, _ = self.uri.partition("://")[2].rpartition("@")
        password = user.partition(":")[2]
        if found and password and not _VARIABLE.fullmatch(password):
            yield "database.uri: a password stands in it; write ${DB_PASSWORD} in its place and export that variable"

    def address(self) -> str:
        """Fill in the variables of `uri`, percent-encoded as an address needs it; never to be printed or stored.

        Raises:
            UserError: a variable is not set, or the file of credentials is missing or open to others.
        """
        given = {} if self.credentials is None else _read(Path(self.credentials).expanduser())
        return _VARIABLE.sub(lambda variable: _value(variable[1], given, self.credentials), self.uri)


def _read(file: Path) -> dict[str, str]:
    """Read a file of credentials; messages name lines by number and never quote them."""
    try:
        if file.stat().st_mode & 0o077:
            raise UserError(f"database.credentials: others may read {file}; run chmod 600 {file}")
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"database.credentials: {file} cannot be read; expected lines NAME=value") from None
    given = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        assignment = _ASSIGNMENT.fullmatch(line)
        if assignment is None:
            raise UserError(f"database.credentials: line {number} of {file} is no NAME=value")
        given[assignment[1]] = assignment[2].strip()
    return given


def _value(name: str, given: dict[str, str], file: str | None) -> str:
    """Find what stands for a variable; the environment is read here alone, so that an address names all it needs."""
    value = given.get(name) or os.environ.get(name)
    if not value:
        if file is not None:
            raise UserError(f"database.uri: {name} is neither in {file} nor exported; add a line {name}=value to it")
        raise UserError(f"database.uri: the environment variable {name} is not set; export it and run again")
    return quote_plus(value)
