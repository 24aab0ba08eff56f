"""Figures drawn in memory, and what is on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from ontogeny.config.figures import FigureStyle
from ontogeny.errors import UserError
from ontogeny.figures.style import paper
from ontogeny.figures.writer import figure_kinds, figure_module, write_figure

FIGURES = tuple(figure_kinds())


def drawn(name: str, files: list[Path], **settings: Any) -> tuple[Figure, pd.DataFrame]:
    with paper(FigureStyle()):
        figure, numbers = figure_module(name).draw(files, figure_kinds()[name](**settings), FigureStyle())
        figure.draw_without_rendering()
    return figure, numbers


def check_refused(name: str, files: list[Path], expected: str, folder: Path) -> None:
    """Check that a figure gives one line about its tables, and writes nothing."""
    with pytest.raises(UserError) as error:
        write_figure(name, files, figure_kinds()[name](), FigureStyle(), folder / name, None)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert not folder.exists()


def lines(axis: Axes) -> list[np.ndarray]:
    """Points of every line with markers, as arrays (n, 2)."""
    return [line.get_xydata() for line in axis.lines if line.get_marker() in ("o", "s")]


def words(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def visible(figure: Figure) -> list[Text]:
    """Everything written in a figure, without the labels of ticks outside the limits."""
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]
    found = [text for legend in legends if legend for text in legend.get_texts()]
    for axis in figure.axes:
        found += [*axis.texts, axis.xaxis.label, axis.yaxis.label]
        for ticks, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            shown = [tick for tick in ticks.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
            found += [tick.label1 for tick in shown if tick.label1.get_visible()]
            found += [tick.label2 for tick in shown if tick.label2.get_visible()]
    return [text for text in found if text.get_text()]
