"""The one error that a user's mistake raises."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one line: what, where, what was expected, what to do."""
