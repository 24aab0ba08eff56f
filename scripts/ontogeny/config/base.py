"""What every part of the study has in common."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A name that can stand in a path: letters, digits, `_`, `.` and `-`."""

Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A share from 0 to below 1."""


def _scientific(value: object) -> object:
    """YAML 1.1 reads `1e-3` as text; read it as the number that everybody means."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_scientific)]
"""A real number."""

Positive = Annotated[Number, Field(gt=0)]
"""A real number above 0."""

NonNegative = Annotated[Number, Field(ge=0)]
"""A real number of at least 0."""


class Settings(BaseModel):
    """A part of the study: frozen, strict about types, closed to unknown keys, documented by its fields' docstrings."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)
