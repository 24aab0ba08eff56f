"""Where features are stored."""

import os
import re
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


class DatabaseSettings(Settings):
    """A MongoDB server.

    Passwords belong into the environment: in `mongodb://${DB_USER}:${DB_PASSWORD}@host`, every `${NAME}` stands for the
    environment variable NAME, which is read when a command connects and written nowhere.
    """

    uri: str = EMBEDDED
    """`embedded`: the study's own server; or a `mongodb://` or `mongodb+srv://` address, `${NAME}` in it as above."""
    name: DatabaseName = "ontogeny"
    """Database on that server."""

    @field_validator("uri")
    @classmethod
    def _check_scheme(cls, uri: str) -> str:
        if uri != EMBEDDED and not uri.startswith(_SCHEMES):
            raise ValueError(f"expected 'embedded' or an address that begins with {' or '.join(_SCHEMES)}")
        return uri

    def address(self) -> str:
        """Fill in the variables of `uri`, percent-encoded as an address needs it; never to be printed or stored.

        Raises:
            UserError: a variable is not set.
        """
        return _VARIABLE.sub(_value, self.uri)


def _value(variable: re.Match[str]) -> str:
    """Read an environment variable; here alone, so that an address names all that it depends on."""
    name = variable[1]
    if not os.environ.get(name):
        raise UserError(f"database.uri: the environment variable {name} is not set; export it and run again")
    return quote_plus(os.environ[name])
