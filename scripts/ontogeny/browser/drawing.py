"""Small drawings inside a line of text: norms over sites."""

from dataclasses import dataclass

from ontogeny.browser.axis import Axis
from ontogeny.database.feature_documents import Feature

WIDTH, HEIGHT, MARGIN = 120.0, 26.0, 3.0
"""Pixels."""


@dataclass(frozen=True)
class Sparkline:
    """Normalised norms over sites, in pixels from the upper left corner."""

    points: str
    """Line over the sites after step 0, or over all; empty where sites are no line."""
    lead: str
    """Line over the break after step 0; empty if there is none."""
    dots: tuple[tuple[float, float], ...]
    """Sites of a line (S)."""
    bars: tuple[tuple[float, float, float, float], ...]
    """Left, top, width and height of each site, where sites are no line."""
    tau: float
    """Height of the threshold."""
    colour: str
    """Class that gives the colour, or nothing."""
    text: str
    """The same in words."""


def sparkline(axis: Axis, feature: Feature, tau: float) -> Sparkline | None:
    """Draw the normalised norms of a feature; nothing for one site."""
    if axis.kind == "one":
        return None
    norms = axis.arranged(feature.normalised_norms)
    drawn = [(round(_x(place), 1), round(_y(norm), 1)) for place, norm in zip(axis.positions, norms, strict=True)]
    start = 0 if axis.gap is None else 1
    line = axis.has_time or axis.kind == "layers"
    return Sparkline(
        points=_path(drawn[start:]) if line else "",
        lead=_path(drawn[:2]) if line and start else "",
        dots=tuple(drawn) if line else (),
        bars=() if line else tuple(_bars(norms)),
        tau=round(_y(tau), 1),
        colour=feature.class_ or "" if axis.has_order else "",
        text=_text(axis, feature),
    )


def _bars(norms: list[float]) -> list[tuple[float, float, float, float]]:
    step = (WIDTH - 2 * MARGIN) / len(norms)
    width = min(0.8 * step, 24.0)
    return [
        (
            round(MARGIN + (n + 0.5) * step - width / 2, 1),
            round(_y(norm), 1),
            round(width, 1),
            round(_y(0) - _y(norm), 1),
        )
        for n, norm in enumerate(norms)
    ]


def _text(axis: Axis, feature: Feature) -> str:
    if feature.peak_site is None or feature.emergence_site is None:
        return "no decoder"
    peak, first = (axis.names[axis.place(site)] for site in (feature.peak_site, feature.emergence_site))
    if axis.has_order:
        return f"Decoder norm: above tau from {first}, largest at {peak}"
    return f"Decoder norm: largest at {peak}"


def _x(place: float) -> float:
    return MARGIN + place * (WIDTH - 2 * MARGIN)


def _y(norm: float) -> float:
    return HEIGHT - MARGIN - norm * (HEIGHT - 2 * MARGIN)


def _path(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
