"""What is said beside a figure: what it shows, and what one sees in it in numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Caption(NamedTuple):
    """The words of a figure; its numbers come from the table of what is drawn."""

    title: str
    """A few words."""
    description: str
    """What is drawn and how it is read; the same for every study."""
    finding: str
    """What one sees, in numbers."""
    run: str
    """Runs that are shown, such as `crosscoder/latents2048-k32-seed0`."""
    tokens: str
    """What was measured on, such as `32,768 heldout rows`."""

    def metadata(self) -> dict[str, str]:
        """The words as text for the metadata of a picture."""
        keys = ("Title", "Description", "Finding", "Run", "Tokens")
        return dict(zip(keys, self, strict=True))


def counted(number: int, noun: str) -> str:
    """Write a count with its noun: `1 seed`, `2,048 features`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def among(numbers: Sequence[int], noun: str) -> str:
    """Write how many `noun`s there were, or from how many to how many: `32,640 to 32,768 rows`."""
    low, high = min(numbers), max(numbers)
    return counted(high, noun) if low == high else f"{low:,} to {counted(high, noun)}"


def rounded(value: float) -> str:
    """Write a measure with three significant digits and no power of ten: 0.0213, 1.5, 64, 1,840."""
    if not math.isfinite(value):
        return "undefined"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def listed(parts: Sequence[str]) -> str:
    """Join parts as a sentence does: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
