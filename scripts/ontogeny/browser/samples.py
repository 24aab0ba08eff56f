"""Samples of a feature: windows of heldout text, in groups."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ontogeny.browser.axis import Axis
from ontogeny.browser.quantities import number
from ontogeny.browser.tokens import Token, shaded
from ontogeny.database.feature_documents import Sample

NEAR = 6
"""Tokens before and after the place of a sample that are shown first."""


@dataclass(frozen=True)
class SampleView:
    """A window of text."""

    number: int
    """Place among all samples of the page, from 0, by which scripts find its readings."""
    tokens: tuple[Token, ...]
    """Its tokens."""
    middle: int
    """Number of the token that it was chosen for."""
    near: range
    """Numbers of the tokens that are shown first."""
    activation: str
    """Activation there."""
    place: str
    """Where the text comes from."""

    @property
    def hidden(self) -> int:
        """Tokens that are shown on demand."""
        return len(self.tokens) - len(self.near)


@dataclass(frozen=True)
class SampleGroup:
    """Samples that were chosen alike."""

    title: str
    """How they were chosen."""
    samples: tuple[SampleView, ...]
    """Strongest first in the top group."""


def sample_groups(samples: Sequence[Sample], largest: float) -> tuple[SampleGroup, ...]:
    """Group samples: top ones, then those of each band of activation.

    Args:
        samples: as stored, in order.
        largest: the feature's strongest activation, of the darkest shade.
    """
    views = [_view(place, sample, largest) for place, sample in enumerate(samples)]
    bands = max((sample.quantile for sample in samples if sample.quantile is not None), default=0) + 1
    grouped = groupby(zip(samples, views, strict=True), key=lambda pair: pair[0].quantile)
    found = [SampleGroup(_title(band, bands), tuple(view for _, view in group)) for band, group in grouped]
    return (*found[:1], *found[:0:-1])


def encoded_readings(sample: Sample, axis: Axis) -> str:
    """Pack the readings of a sample for scripts: signed bytes (sites of the axis, tokens), in base64; empty if none."""
    sites, width = len(axis.order), len(sample.tokens)
    if len(sample.readings) != sites * width:
        return ""
    readings_ST = np.frombuffer(sample.readings, dtype=np.int8).reshape(sites, width)
    return base64.b64encode(readings_ST[list(axis.order)].tobytes()).decode()


def _view(place: int, sample: Sample, largest: float) -> SampleView:
    middle = min(max(sample.position - sample.start, 0), len(sample.tokens) - 1)
    return SampleView(
        number=place,
        tokens=shaded(sample.texts, sample.activations, largest),
        middle=middle,
        near=range(max(middle - NEAR, 0), min(middle + NEAR + 1, len(sample.tokens))),
        activation=number(sample.activation),
        place=f"document {sample.document}, position {sample.position}",
    )


def _title(band: int | None, bands: int) -> str:
    if band is None:
        return "Strongest"
    return f"Band {band + 1} of {bands}" + {0: ", weakest firings", bands - 1: ", strongest firings"}.get(band, "")
