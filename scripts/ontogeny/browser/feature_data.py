"""What the scripts of a feature's page read: numbers in the order of the site axis."""

from typing import Any

from ontogeny.browser.axis import Axis
from ontogeny.browser.head import RunHead
from ontogeny.browser.samples import encoded_readings
from ontogeny.browser.tokens import visible
from ontogeny.database.documents import Run
from ontogeny.database.feature_documents import Attribution, Details, Feature, Promotion

DIGITS = 5
"""Significant digits of what is drawn."""


def feature_data(head: RunHead, feature: Feature, details: Details) -> dict[str, Any]:
    """Gather the numbers of a feature for the scripts of its page, as JSON takes them."""
    axis = head.axis
    return {
        "axis": {
            "kind": axis.kind,
            "title": axis.title,
            "noun": axis.noun,
            "names": axis.names,
            "short": axis.short,
            "positions": axis.positions,
            "ticks": axis.ticks,
            "gap": axis.gap,
        },
        "norms": _rounded(axis.arranged(feature.decoder_norms)),
        "normalised": _rounded(axis.arranged(feature.normalised_norms)),
        "tau": head.run.threshold,
        "class": feature.class_ if axis.has_order else None,
        "peak": None if feature.peak_site is None else axis.place(feature.peak_site),
        "rotation": rotation_matrix(axis, details),
        "histogram": details.histogram,
        "largest": feature.max_activation,
        "samples": [
            {
                "activations": [None if value is None else float(f"{value:.4g}") for value in sample.activations],
                "readings": encoded_readings(sample, axis),
                "scale": sample.readings_scale,
            }
            for sample in details.samples
        ],
        "promotions": [_promotion(promotion) for promotion in axis.arranged(details.promotions)],
        "attributions": [attribution_line(head.run, axis, attribution) for attribution in details.attributions],
    }


def rotation_matrix(axis: Axis, details: Details) -> list[list[float | None]]:
    """Arrange the cosines of a feature's decoders at two sites, both along the axis (shape: [S, S]); empty if none."""
    sites = len(axis.order)
    if sites < 2 or len(details.rotation) != sites * sites:
        return []
    rows = [details.rotation[site * sites : (site + 1) * sites] for site in axis.order]
    return [[None if value is None else float(f"{value:.4f}") for value in axis.arranged(row)] for row in rows]


def attribution_line(run: Run, axis: Axis, attribution: Attribution) -> dict[str, Any]:
    """Place the values of a task along the axis, nothing at the sites of other models."""
    own = [number for number, site in enumerate(run.sites) if site.model == attribution.model]
    values = dict(zip(own, attribution.values, strict=True))
    models = {site.model for site in run.sites}
    label = attribution.task if len(models) == 1 else f"{attribution.task} ({attribution.model})"
    return {"label": label, "values": [values.get(site) for site in axis.order]}


def _promotion(promotion: Promotion) -> dict[str, list[tuple[str, float]]]:
    pairs = {
        "promoted": (promotion.promoted, promotion.promoted_logits),
        "suppressed": (promotion.suppressed, promotion.suppressed_logits),
    }
    return {
        name: [(visible(text), float(f"{logit:.4g}")) for text, logit in zip(*lists, strict=True)]
        for name, lists in pairs.items()
    }


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
