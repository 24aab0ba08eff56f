"""The one error that a user's mistake raises, and what it takes from others."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one line: what, where, what was expected, what to do."""


def first_line(error: BaseException) -> str:
    """Take the first line of another library's error, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
