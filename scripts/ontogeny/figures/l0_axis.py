"""The axis of L0, the mean number of features active on a row."""

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator


def limit_l0(axis: Axes, low: float, high: float) -> None:
    """Make the x axis one of L0, with a margin: logarithmic, unless a run has no active feature.

    Args:
        axis: a panel.
        low: least L0 of what is drawn.
        high: greatest.
    """
    axis.set_xlabel("L0 (active features per token)")
    if low <= 0:
        return
    margin = max((high / low) ** 0.07, 1.1)
    axis.set_xscale("log")
    axis.set_xlim(low / margin, high * margin)
    axis.set_xticks(l0_ticks(low / margin, high * margin), minor=False)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def l0_ticks(low: float, high: float) -> list[float]:
    """Choose ticks of a log axis: powers of 2, or of 8 where these are many; round numbers where there are none."""
    powers = [2.0**n for n in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    if len(powers) < 2:
        return [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    return powers[:: 3 if len(powers) > 7 else 1]
