"""The address of a list: strict parameters in, a query of the database out, and back again.

Nothing of an address reaches the database but numbers, words that are looked up whole, and names that the run itself
has: what is no parameter, or has a value that it cannot have, is refused.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import Field, StringConstraints, ValidationError

from ontogeny.browser.errors import BadRequestError
from ontogeny.browser.quantities import Quantity
from ontogeny.config.base import Settings
from ontogeny.database.documents import Run
from ontogeny.database.query import NUMBER, Query

SIZES = (25, 50, 100)
"""Features a page."""

Words = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]

_FLAGS = {"context": "in_context", "desc": "descending", "bookmarked": "bookmarked"}
_TEXTS = {"q": "words", "tag": "tag", "sort": "order", "dead": "dead"}
_COUNTS = {"size": "size", "page": "page"}
_CHOICES = ("class", "type")
_LONGEST = 40
"""Characters of a number."""
_STRANGE = "parameter {!r}: there is none of this name, or it is given twice"


class ListQuery(Settings):
    """What a list is asked for in its address; the default is every feature that fires, by number."""

    words: Words = ""
    """Words to look for."""
    in_context: bool = False
    """Whether they may stand around the place where a feature fires."""
    order: str = NUMBER
    """Column by which features are ordered, or `feature`."""
    descending: bool = False
    """Largest first."""
    between: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Smallest and largest values."""
    among: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Classes and types."""
    dead: Literal["hide", "show", "only"] = "hide"
    """What becomes of features that never fire."""
    bookmarked: bool = False
    """Only bookmarked features."""
    tag: Annotated[str, StringConstraints(strip_whitespace=True, max_length=40)] = ""
    """Only features with this tag."""
    size: Literal[25, 50, 100] = 50
    """Features a page."""
    page: Annotated[int, Field(ge=1, le=10**7)] = 1
    """Number of the page."""

    def of_database(self) -> Query:
        """Make the query that the database answers."""
        ends = {"hide": (0.0, 0.0), "show": None, "only": (1.0, 1.0)}[self.dead]
        return Query(
            **self.model_dump(include={"words", "in_context", "order", "descending", "bookmarked", "tag"}),
            between=self.between if ends is None else {**self.between, "dead": ends},
            among=self.among,
        )

    def address(self, **changes: object) -> str:
        """Write the query as the part of an address after `?`, defaults left out.

        Args:
            changes: fields to be given other values.
        """
        other = self.model_copy(update=changes)
        plain = {**_TEXTS, **_FLAGS, **_COUNTS}
        pairs: list[tuple[str, object]] = [
            (name, "1" if field in _FLAGS.values() else getattr(other, field))
            for name, field in plain.items()
            if getattr(other, field) != ListQuery.model_fields[field].default
        ]
        pairs += [(name, word) for name in _CHOICES for word in other.among.get(name, ())]
        for name, ends in sorted(other.between.items()):
            pairs += [
                (f"{end}.{name}", f"{value:.15g}")
                for end, value in zip(("min", "max"), ends, strict=True)
                if value is not None
            ]
        return urlencode(pairs)

    @property
    def is_filtered(self) -> bool:
        """Whether anything but the order and the page is asked for."""
        return bool(self.filters or self.words)

    @property
    def filters(self) -> int:
        """How many filters there are besides the words."""
        return len(self.between) + len(self.among) + self.bookmarked + bool(self.tag) + (self.dead != "hide")


def read_list_query(items: Iterable[tuple[str, str]], run: Run, quantities: Mapping[str, Quantity]) -> ListQuery:
    """Read the parameters of an address.

    Args:
        items: names and values, in order; those without a value are passed over, as forms send them.
        run: whose list it is.
        quantities: by which it can be ordered and filtered.

    Raises:
        BadRequestError: there is no such parameter, or it cannot have the value.
    """
    fields: dict[str, Any] = {}
    ends: dict[str, list[float | None]] = {}
    words: dict[str, list[str]] = {}
    for name, value in items:
        if value == "":
            continue
        end, _, column = name.partition(".")
        if name in _CHOICES:
            words.setdefault(name, []).append(_choice(name, value, run))
        elif end in ("min", "max") and column in quantities:
            if ends.setdefault(column, [None, None])[end == "max"] is not None:
                raise BadRequestError(_STRANGE.format(name))
            ends[column][end == "max"] = _real(name, value)
        elif name in fields or name not in {**_TEXTS, **_FLAGS, **_COUNTS}:
            raise BadRequestError(_STRANGE.format(name[:_LONGEST]))
        else:
            fields[name] = _plain(name, value)
    order = fields.get("sort", NUMBER)
    if order not in (NUMBER, *_CHOICES, *quantities) or (order in _CHOICES and order not in run.columns):
        raise BadRequestError(f"parameter sort: {order[:_LONGEST]!r} is no quantity of this run")
    named = {**_TEXTS, **_FLAGS, **_COUNTS}
    try:
        return ListQuery(
            **{named[name]: value for name, value in fields.items()},
            between={column: (low, high) for column, (low, high) in ends.items()},
            among={name: tuple(sorted(set(chosen))) for name, chosen in words.items()},
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = first["loc"][0]
        name = next((name for name, of in named.items() if of == field), str(field))
        raise BadRequestError(f"parameter {name}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def choices(run: Run, name: str) -> dict[str, int]:
    """List the classes or types of a run, each with its number of features."""
    return run.counts.classes if name == "class" else run.counts.types


def _plain(name: str, value: str) -> str | bool | int:
    if name in _FLAGS:
        if value != "1":
            raise BadRequestError(f"parameter {name}: {value[:_LONGEST]!r}; expected 1, or leave it out")
        return True
    if name not in _COUNTS:
        return value
    number = _real(name, value)
    if not number.is_integer():
        raise BadRequestError(f"parameter {name}: {value[:_LONGEST]!r} is no whole number")
    return int(number)


def _choice(name: str, value: str, run: Run) -> str:
    if value not in choices(run, name):
        expected = ", ".join(choices(run, name)) or "none: this run has no such column"
        raise BadRequestError(f"parameter {name}: {value[:_LONGEST]!r}; expected one of {expected}")
    return value


def _real(name: str, value: str) -> float:
    try:
        found = float(value) if len(value) <= _LONGEST else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadRequestError(f"parameter {name}: {value[:_LONGEST]!r} is no number")
    return found
