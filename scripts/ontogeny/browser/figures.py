"""The figures of the study, as the gallery shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ontogeny.errors import UserError
from ontogeny.figures.gallery import Picture, read_picture

SUFFIXES = {"png": "image/png", "pdf": "application/pdf", "csv": "text/csv; charset=utf-8"}
"""Files of a figure, and what they are sent as."""


@dataclass(frozen=True)
class FiguresPage:
    """All that the page of figures shows."""

    study: str
    """Name of the study."""
    pictures: tuple[Picture, ...]
    """Figures that are drawn."""
    missing: tuple[str, ...]
    """Figures that are not."""


def figures_page(study: str, folder: Path, names: Sequence[str]) -> FiguresPage:
    """Gather the figures that are drawn.

    Args:
        study: name of the study.
        folder: folder of its figures.
        names: figures that the study can draw, in order.
    """
    pictures, missing = [], []
    for name in names:
        try:
            pictures.append(read_picture(folder, name))
        except UserError:
            missing.append(name)
    return FiguresPage(study, tuple(pictures), tuple(missing))
