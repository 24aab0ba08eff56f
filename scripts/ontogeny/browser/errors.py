"""What a request can do wrong besides asking for what is not there."""

from ontogeny.errors import UserError


class BadRequestError(UserError):
    """A parameter of the address or of a form is none, or has a value that it cannot have."""


class ForbiddenError(UserError):
    """A change that does not come from a page of this server."""


class UnavailableError(UserError):
    """The database cannot be used at present."""
