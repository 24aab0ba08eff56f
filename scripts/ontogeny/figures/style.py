"""The visual language that all figures share: sizes, fonts, colours by meaning, labels at the ends of lines."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from ontogeny.config.figures import FigureSettings, FigureStyle

MM_PER_INCH = 25.4
POINTS_PER_INCH = 72

INK = "#1A1A1A"
"""What was measured without a dictionary: the model itself."""
GREY = "#6E6E6E"
"""Baselines and remarks."""
LIGHT = "#B8B8B8"
"""What stands behind."""
SHADE = "#EFEFEF"
"""Ground of a region where nothing can be measured."""
CROSSCODERS = ("#0072B2", "#CC79A7", "#56B4E9")
"""Dictionaries over several sites, in order; this and the colours below are from Okabe and Ito (2008)."""
SINGLES = ("#4D4D4D", "#E69F00", "#8C8C8C")
"""Dictionaries over one site, in order."""
MODELS = (INK, "#CC79A7", "#56B4E9")
"""Language models, in order."""
OVERHANG = 2.0
"""Millimetres by which names at the ends of lines may reach beyond the frame."""

THIN = 0.6
THICK = 1.0


@contextmanager
def paper(style: FigureStyle) -> Iterator[None]:
    """Draw and save in this language inside the block, whatever the user's own matplotlib settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_parameters(style))
        yield


def _parameters(style: FigureStyle) -> dict[Any, Any]:
    small = style.font_size - 1
    return {
        "font.family": "DejaVu Sans",
        "font.size": style.font_size,
        "axes.labelsize": style.font_size,
        "xtick.labelsize": small,
        "ytick.labelsize": small,
        "legend.fontsize": small,
        "legend.frameon": False,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": THIN,
        "axes.labelpad": 3,
        "lines.linewidth": THICK,
        "lines.markersize": 3.5,
        "lines.markeredgewidth": 0.8,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5,
        "ytick.minor.size": 1.5,
        "xtick.major.width": THIN,
        "ytick.major.width": THIN,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.pad": 2,
        "ytick.major.pad": 2,
        "pdf.fonttype": 42,
        "savefig.dpi": style.dpi,
    }


def page(settings: FigureSettings) -> Figure:
    """Make an empty figure of the size that it has on paper."""
    return Figure(figsize=(settings.width / MM_PER_INCH, settings.height / MM_PER_INCH))


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes whose frame stands at these millimetres from the lower left corner of the page."""
    page_width, page_height = (float(inches) * MM_PER_INCH for inches in figure.get_size_inches())
    return figure.add_axes((left / page_width, bottom / page_height, width / page_width, height / page_height))


def letter(axis: Axes, text: str, left: float = 9.0) -> None:
    """Name a panel by a bold letter above its upper left corner, `left` millimetres before the frame."""
    offset = (-left * POINTS_PER_INCH / MM_PER_INCH, 5)
    axis.annotate(
        text, (0, 1), offset, xycoords="axes fraction", textcoords="offset points", fontweight="bold", va="bottom"
    )


def display_name(name: str) -> str:
    """Write a name of the study as people say it: `random_sae` is `random SAE`."""
    return " ".join("SAE" if word == "sae" else word for word in re.split(r"[_-]+", name))


class End(NamedTuple):
    """The end of a line that is to be named."""

    x: float
    y: float
    text: str
    colour: str


def label_ends(axis: Axes, ends: Sequence[End], gap: float = 1.5, leaders: bool = False) -> None:
    """Write the names of lines at the right of a panel, each as near to its line as the others allow.

    Args:
        axis: a panel whose limits are final.
        ends: ends of lines, in data coordinates, not-a-number left out.
        gap: millimetres between the frame and the text.
        leaders: whether a thin line leads to every name; else to those alone that stand off the height of their line.
    """
    size = mpl.rcParams["legend.fontsize"]
    points = POINTS_PER_INCH / axis.figure.dpi
    beyond = OVERHANG / size_of(axis)[1]
    low, high = (axis.transAxes.transform((0, y))[1] * points for y in (-beyond, 1 + beyond))
    at = np.array([axis.transData.transform((0, end.y))[1] * points for end in ends])
    heights = np.array([1.25 * size * (1 + end.text.count("\n")) for end in ends])
    for end, where, label_at in zip(ends, at, spread(at, heights, low, high), strict=True):
        moved = leaders or abs(label_at - where) > 0.35 * size
        axis.annotate(
            end.text,
            (end.x, end.y),
            (1 + gap / size_of(axis)[0], axis.transAxes.inverted().transform((0, label_at / points))[1]),
            textcoords="axes fraction",
            color=end.colour,
            fontsize=size,
            va="center",
            linespacing=1.1,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "lw": 0.4,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            }
            if moved
            else None,
        )


def size_of(axis: Axes) -> tuple[float, float]:
    """Measure the frame of a panel, (width, height) in millimetres."""
    frame = axis.get_window_extent()
    return float(frame.width / axis.figure.dpi * MM_PER_INCH), float(frame.height / axis.figure.dpi * MM_PER_INCH)


def room(names: Iterable[str], style: FigureStyle, gap: float = 1.5) -> float:
    """Measure the millimetres that names at the ends of lines take at the right of a panel."""
    return max((width_of(name, style.font_size - 1) for name in names), default=0.0) + 2 * gap


def width_of(text: str, size: float | None = None) -> float:
    """Measure the millimetres that a text takes, that of its longest line, at `size` points or that of all text."""
    lines = [line for line in text.split("\n") if line.strip()]
    points = [TextPath((0, 0), line, size=size or mpl.rcParams["font.size"]).get_extents().width for line in lines]
    return float(max(points, default=0.0)) * MM_PER_INCH / POINTS_PER_INCH


def spread(centres: NDArray[np.float64], heights: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Move intervals as little as possible (least squares) so that none overlaps another.

    Args:
        centres: where the intervals would like to be, (n,).
        heights: their lengths, (n,).
        low: no interval starts below, if they all fit.
        high: no interval ends above, if they all fit.

    Returns:
        Centres in the order given, (n,).
    """
    if not len(centres):
        return centres
    order = np.argsort(centres, kind="stable")
    sizes = heights[order]
    offsets = np.concatenate([[0.0], np.cumsum((sizes[1:] + sizes[:-1]) / 2)])
    blocks: list[tuple[float, int]] = []
    for value in centres[order] - offsets:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, number = blocks.pop()
            mean, count = (mean * count + before * number) / (count + number), count + number
        blocks.append((mean, count))
    settled = np.concatenate([np.full(count, mean) for mean, count in blocks])
    settled = np.maximum(np.minimum(settled, high - sizes[-1] / 2 - offsets[-1]), low + sizes[0] / 2)
    result: NDArray[np.float64] = np.empty_like(settled)
    result[order] = settled + offsets
    return result
