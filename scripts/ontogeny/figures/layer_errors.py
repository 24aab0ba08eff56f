"""What dictionaries over all layers, and over one, leave unexplained at each layer."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from ontogeny.figures.axes import SiteAxis
from ontogeny.figures.style import CROSSCODERS, SINGLES, End, label_ends
from ontogeny.figures.tables import RUN

KINDS = {"crosscoder": (CROSSCODERS[0], "o"), "SAE of the layer": (SINGLES[1], "s")}
"""Colour and marker of dictionaries over all layers, and over one."""
DASHES = ("-", "--", "-.", ":")
"""Of lines of one kind, from few active features to many."""
ASIDE = 0.17
"""Layers between SAEs of one layer, side by side."""


def curves(numbers: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """Cut errors by kind, then into runs over all layers and into SAEs of one point of their sweep.

    Args:
        numbers: what the figure of layers draws.

    Returns:
        Rows of each curve, from few active features to many, for each of `KINDS`.
    """
    rows, found = numbers[numbers["panel"] == "fvu"], {}
    for kind, by in zip(KINDS, (RUN, RUN[1:]), strict=True):
        points = [own for _, own in rows[rows["kind"] == kind].groupby(by)]
        found[kind] = sorted(points, key=lambda own: float(own["x"].mean()))
    return found


def names_of(kind: str, of_kind: Sequence[pd.DataFrame]) -> list[str]:
    """Name the curves of a kind by their L0; all of them together where they are of one layer alone."""
    if kind == "crosscoder":
        return [f"crosscoder\nL0 {_l0(own)}" for own in of_kind]
    if _one_layer(of_kind):
        return [f"SAE, L0 {_l0(of_kind[0])}" if len(of_kind) == 1 else f"SAEs, L0\n{', '.join(map(_l0, of_kind))}"]
    return [f"SAEs, L0\n{_l0(own)}" for own in of_kind]


def _l0(curve: pd.DataFrame) -> str:
    """Write the L0 of a curve, or from which to which it is where layers differ."""
    ends = (float(curve["x"].min()), float(curve["x"].max()))
    return " to ".join(dict.fromkeys(f"{end:.{0 if end >= 10 else 1}f}" for end in ends))


def _one_layer(of_kind: Sequence[pd.DataFrame]) -> bool:
    return len({hook for own in of_kind for hook in own["hook"]}) == 1


def draw_errors(axis: Axes, found: Mapping[str, Sequence[pd.DataFrame]], sites: SiteAxis) -> None:
    """Draw a line a curve, or points side by side where all curves of a kind are of one layer.

    Args:
        axis: the panel.
        found: as `curves` returns it.
        sites: the layers.
    """
    hooks = {site.hook: float(at) for site, at in zip(sites.sites, sites.positions, strict=True)}
    ends = []
    for kind, of_kind in found.items():
        colour, marker = KINDS[kind]
        alone, own_ends = _one_layer(of_kind), []
        for place, own in enumerate(of_kind):
            aside = ASIDE * (place - (len(of_kind) - 1) / 2) if alone else 0.0
            x, y = [hooks[hook] + aside for hook in own["hook"]], own["value"].tolist()
            face, dashes = "white" if alone else colour, DASHES[place % len(DASHES)]
            axis.plot(x, y, dashes, color=colour, marker=marker, markersize=2.5, markerfacecolor=face)
            own_ends.append(End(x[-1], y[-1], "", colour))
        names = names_of(kind, of_kind)
        # One name alone stands at the last of points side by side.
        ends += [end._replace(text=name) for end, name in zip(own_ends[-len(names) :], names, strict=True)]
    sites.mark(axis)
    axis.set_ylim(0, 1.08 * max(float(own["value"].max()) for of_kind in found.values() for own in of_kind))
    axis.set_ylabel("Unexplained variance (FVU)")
    label_ends(axis, ends, leaders=any(map(_one_layer, found.values())))
