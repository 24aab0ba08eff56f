"""Colours by meaning, the same in figures and in the browser."""

import numpy as np
from numpy.typing import NDArray

from ontogeny.evaluation.emergence import CLASSES

GROUPS = {"initialisation": "#D55E00", "emergent": "#009E73"}
"""The two classes of the paper, everywhere; this and the other colours are from Okabe and Ito (2008)."""


def shades(colour: str, count: int) -> list[str]:
    """Make shades of a colour from light to dark, apart in grey as well; a single one is the colour itself."""
    if count == 1:
        return [colour]
    base = _rgb(colour)
    weights = np.linspace(-0.4, 0.4, count)
    return [_hex(base + (1 - base) * -w if w < 0 else base * (1 - w)) for w in weights]


def class_colours() -> dict[str, str]:
    """Give each class a shade of the colour of the class of the paper that it is a part of, lighter from the first."""
    colours: dict[str, str] = {}
    for whole, colour in GROUPS.items():
        parts = [name for name, of in CLASSES.items() if of == whole]
        colours |= dict(zip(parts, shades(colour, len(parts))[::-1], strict=True))
    return colours


def dark_class_colours() -> dict[str, str]:
    """Give each class its colour on a dark ground: mixed with white, the darker the more."""
    mixed = {}
    for name, colour in class_colours().items():
        rgb = _rgb(colour)
        share = 0.45 * (1 - float(rgb.max()))
        mixed[name] = _hex(rgb + (1 - rgb) * share)
    return mixed


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def _hex(rgb: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in rgb)
