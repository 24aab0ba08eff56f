"""Quantities of features: by which names people know them, how their values are written, and which a run has."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ontogeny.browser.axis import Axis
from ontogeny.database.columns import ATTRIBUTION, NUMBERS, ColumnValues
from ontogeny.database.documents import Run
from ontogeny.database.feature_documents import Feature

ABSENT = "\u2013"
"""Stands for a value that a feature has not."""


def number(value: float | None) -> str:
    """Write a number with three significant digits."""
    if value is None or math.isnan(value):
        return ABSENT
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+", "e").replace("e0", "e").replace("-", "\u2212")
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def percent(value: float | None) -> str:
    """Write a share as a percentage."""
    return ABSENT if value is None or math.isnan(value) else f"{number(100 * value)} %"


def whole(value: float | None) -> str:
    """Write a whole number."""
    return ABSENT if value is None or math.isnan(value) else f"{round(value):,}"


@dataclass(frozen=True)
class Quantity:
    """A column by which features can be ordered and filtered."""

    name: str
    """Name of the column."""
    label: str
    """What people call it."""
    help: str
    """What it says, in one sentence."""
    write: Callable[[float | None], str] = number
    """How its values are written."""
    short: str = ""
    """What heads its column of a list, where that is not the label."""

    @property
    def heading(self) -> str:
        """What heads its column of a list."""
        return self.short or self.label

    @property
    def is_step(self) -> bool:
        """Whether its values are training steps."""
        return self.name.endswith("_step")


_ALWAYS = (
    Quantity("density", "Density", "Share of heldout rows where the feature fires.", percent),
    Quantity("max_activation", "Largest activation", "Its strongest activation on heldout rows."),
    Quantity("mean_activation", "Mean activation", "Its mean activation where it fires."),
    Quantity("peak_norm", "Peak norm", "Largest decoder norm over sites, on scaled activations."),
    Quantity("context_needed", "Context needed", "Tokens of context that restore its activation.", whole),
    Quantity("complexity", "Complexity", "From 1, a token, to 5, an abstract idea, by a language model.", whole),
    Quantity("detection", "Detection score", "Balanced accuracy of telling windows where it fires by its description."),
    Quantity("fuzzing", "Fuzzing score", "Balanced accuracy of telling marked tokens on which it fires."),
)
_IN_TIME = (
    Quantity("emergence_step", "Emergence step", "First step with a normalised norm above tau.", whole, "Emerges"),
    Quantity("peak_step", "Peak step", "Step with the largest decoder norm.", whole, "Peaks"),
)
_IN_ORDER = (Quantity("persistence", "Persistence", "Share of sites with a normalised norm above tau.", percent),)
_OF_TWO = (
    Quantity("relative_norm", "Relative norm", "Share of the second site in the norms of both.", percent),
    Quantity("decoder_cosine", "Decoder cosine", "Cosine of the decoders at the two sites."),
)


def quantities_of(run: Run, axis: Axis) -> dict[str, Quantity]:
    """List the quantities that a run has and that make sense over its sites, by name of the column."""
    known = [*_ALWAYS, *(_IN_TIME if axis.has_time else ()), *(_IN_ORDER if axis.has_order else ()), *_OF_TWO]
    if axis.has_order and not axis.has_time:
        known += [
            Quantity("emergence_site", f"First {axis.noun}", "First with a normalised norm above tau.", _named(axis)),
            Quantity("peak_site", f"Peak {axis.noun}", "The one with the largest decoder norm.", _named(axis)),
        ]
    several = len({name.split("/")[1] for name in run.columns if name.startswith(ATTRIBUTION)}) > 1
    known += [_attribution(name, several) for name in run.columns if name.startswith(ATTRIBUTION)]
    return {quantity.name: quantity for quantity in known if quantity.name in run.columns}


def value_of(feature: Feature, name: str, columns: Mapping[str, ColumnValues]) -> float | None:
    """Read a quantity of a feature: from its document, else from the columns that were read."""
    if name in NUMBERS:
        return NUMBERS[name](feature)
    if name in columns:
        return float(columns[name].values[feature.feature])
    return getattr(feature.interpretation, name, None)


def in_documents(name: str) -> bool:
    """Tell whether the documents of features hold a quantity, so that its column need not be read for a page."""
    return name in NUMBERS or name in ("complexity", "detection", "fuzzing")


def _attribution(name: str, several: bool) -> Quantity:
    model, task = name.removeprefix(ATTRIBUTION).split("/")
    label = f"Attribution: {task} ({model})" if several else f"Attribution: {task}"
    return Quantity(name, label, "Largest integrated gradient over sites, by magnitude, in logits.", short=task)


def _named(axis: Axis) -> Callable[[float | None], str]:
    names = dict(zip(axis.order, axis.names, strict=True))
    return lambda value: ABSENT if value is None or math.isnan(value) else names[int(value)]
