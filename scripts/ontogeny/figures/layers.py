"""Layers of one model by one crosscoder: which of them features span, and what patching each of them costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ontogeny.colours import shades
from ontogeny.config.figures import FigureStyle, LayersFigure
from ontogeny.errors import UserError
from ontogeny.evaluation.feature_table import Features
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, among, counted, listed, rounded
from ontogeny.figures.l0_axis import l0_ticks
from ontogeny.figures.layer_errors import KINDS, curves, draw_errors, names_of
from ontogeny.figures.norms import class_means, features_to_draw, norms_as_drawn
from ontogeny.figures.style import (
    CROSSCODERS,
    GREY,
    End,
    label_ends,
    letter,
    page,
    panel,
    room,
)  # fmt: skip
from ontogeny.figures.tables import RUN, SITE, over_seeds, read_metrics, sites_of
from ontogeny.figures.wilson import with_count_interval
from ontogeny.site_names import site_names
from ontogeny.sites import Site

TITLE = "Features and the cost of layers"
DESCRIPTION = (
    "Features of a crosscoder over the layers of one model, and what it costs to put its reconstruction in place of a "
    "layer. (a) Features by the number of layers where their decoder norm is above tau times its largest. (b) "
    "Features by the layer where their decoder norm is largest. (c) Mean normalised decoder norm at each layer of the "
    "features that are largest at one layer (dot), darker for later layers. (d) Fraction of variance unexplained "
    "(FVU) of heldout activations at each layer: circles are runs of the crosscoder, squares SAEs of single layers, "
    "named by their L0, the mean number of features active on a token; solid, dashed, dash-dotted and dotted from few "
    "to many. A line of squares joins the SAEs of one point of their sweep, whose settings need not be the "
    "crosscoder's; SAEs of one layer alone are open, side by side from few to many. (e) Change of the model's "
    "next-token loss when one layer is patched with its reconstruction, against L0: of the crosscoder, which reads all "
    "layers and shares its features among them, and of SAEs of single layers. Features of the crosscoder are those of "
    "a pass of the unpatched model, so that a layer is also reconstructed from layers after it. In the table beside "
    "the figure, (a) and (b) have a 95 % interval by Wilson's formula, which takes the features for a sample, and (c) "
    "one over features by Student's t; (d) and (e) have no interval, and are means where a run has several seeds."
)

COLUMNS = ["panel", "kind", *RUN, *SITE, "other_hook", "x", "value", "low", "high", "total", "threshold", "tokens"]
NAMES = [kind.replace(" of", "\nof") for kind in KINDS]
A_ROW = 6
"""Layers in a row of panels."""
LEFT, TOP, GUTTER, NARROW = 12.0, 5.5, 13.0, 3.0
BOTTOM = 9.5


class Frame(NamedTuple):
    """Where panels stand, in millimetres."""

    width: float
    """Width of the page."""
    right: float
    """Room for names at the right of panels."""
    bottom: float
    """Lower edge of the first row of panels."""
    height: float
    """Height of these panels."""


def draw(tables: Sequence[Path], settings: LayersFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `features.parquet` of a run over the layers of a model, then `reconstruction.csv` and `nll-<model>.csv`
            of every run of the dictionaries that are compared.
        settings: size on paper.
        style: what all figures share.

    Returns:
        The figure, and what is drawn. Panel `span` has a row for each number `x` of layers, `value` features of
        `total`; `peak` one for each layer where as many features are largest; `profile` their mean normalised norm at
        every layer, `other_hook` being the one where they peak; `fvu` and `cost` (nats a token) a row for each layer
        and run, over seeds, with its L0 `x`.

    Raises:
        UserError: a table is missing, damaged or empty, or no feature fires.
    """
    if len(tables) < 2:
        raise UserError("--tables: expected features.parquet of one run, and the metrics of at least one")
    features = features_to_draw(tables[0])
    sites = site_axis(features.sites)
    numbers = pd.concat([_of_features(features, sites), _costs(read_metrics(tables[1:]), sites)], ignore_index=True)
    numbers = numbers.reindex(columns=COLUMNS)
    below, depth = -(-len(sites.sites) // A_ROW) * settings.row, sites.depth(style)
    above = settings.height - settings.row
    figure = page(settings.model_copy(update={"height": above + below}))
    names = [name for kind, of_kind in curves(numbers).items() for name in names_of(kind, of_kind)]
    frame = Frame(settings.width, room([*NAMES, *names], style), below + depth, above - depth - TOP)
    _draw_features(figure, numbers, sites, frame)
    _draw_costs(figure, numbers[numbers["panel"] == "cost"], sites, frame, settings.row)
    return figure, numbers


def _of_features(features: Features, sites: SiteAxis) -> pd.DataFrame:
    """Count features by the layers that they span, and by the layer where they are largest."""
    norms_LS, count = norms_as_drawn(features, sites), len(sites.sites)
    spans, peaks = (norms_LS > features.threshold).sum(axis=1), norms_LS.argmax(axis=1)
    of_spans = np.bincount(spans, minlength=count + 1)[1:]
    parts = [pd.DataFrame({"panel": "span", "x": range(1, count + 1), "value": of_spans})]
    layers = pd.DataFrame(sites.sites, columns=SITE)
    parts.append(layers.assign(panel="peak", value=np.bincount(peaks, minlength=count)))
    counts = with_count_interval(pd.concat(parts).assign(total=len(norms_LS)), "value", "total")
    of_peaks = {site.hook: peaks == place for place, site in enumerate(sites.sites) if (peaks == place).any()}
    names = {"class": "other_hook", "features": "total"}
    profiles = class_means(sites, norms_LS, of_peaks, "profile").rename(columns=names)
    labels = {"dictionary": features.labels["dictionary"], "point": features.labels["run"]}
    measured = {"threshold": features.threshold, "tokens": features.rows}
    return pd.concat([counts, profiles], ignore_index=True).assign(**labels, **measured)


def _costs(metrics: pd.DataFrame, sites: SiteAxis) -> pd.DataFrame:
    """Take what every run leaves unexplained at each layer, and what patching the layer adds to the loss."""
    at_sites, pooled = metrics[metrics["model"] != ""], metrics[metrics["model"] == ""]
    losses = over_seeds(at_sites, ("nll_clean", "nll_reconstructed"))
    errors = over_seeds(at_sites, ("fvu",))
    parts = [
        errors.assign(panel="fvu", value=errors["fvu"]),
        losses.assign(panel="cost", value=losses["nll_reconstructed"] - losses["nll_clean"]),
    ]
    l0 = over_seeds(pooled, ("l0",)).set_index(RUN)["l0"].rename("x")
    table = pd.concat(parts).join(l0, on=RUN).dropna(subset=["value", "x"])
    if set(table["panel"]) != {"fvu", "cost"}:
        raise UserError("--tables: no run has losses, FVU and L0; expected the metrics of each")
    several = {name for name, own in at_sites.groupby("dictionary") if len(sites_of(own)) > 1}
    places = {site: place for place, site in enumerate(sites.sites)}
    table["place"] = [places[Site(*site)] for site in table[SITE].itertuples(index=False)]
    table["kind"] = np.where(table["dictionary"].isin(several), *KINDS)
    order = ["panel", "place", "kind", "dictionary", "x"]
    return table.sort_values(order, ascending=[False, True, False, True, True], kind="stable")


def _draw_features(figure: Figure, numbers: pd.DataFrame, sites: SiteAxis, frame: Frame) -> None:
    """Draw the first row: spans, peaks, profiles and errors."""
    width = (frame.width - LEFT - 3 * GUTTER - frame.right) / 4
    axes = [panel(figure, LEFT + n * (width + GUTTER), frame.bottom, width, frame.height) for n in range(4)]
    parts = dict(list(numbers.groupby("panel", sort=False)))
    _draw_spans(axes[0], parts["span"])
    _draw_peaks(axes[1], parts["peak"], sites)
    _draw_profiles(axes[2], parts["profile"], sites)
    draw_errors(axes[3], curves(numbers), sites)
    for axis, text in zip(axes, "abcd", strict=True):
        letter(axis, text)


def _draw_spans(axis: Axes, rows: pd.DataFrame) -> None:
    axis.bar(rows["x"], rows["value"] / rows["total"], color=CROSSCODERS[0], width=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_xlabel("Layers where norm > τ")
    axis.set_ylabel("Share of features")


def _draw_peaks(axis: Axes, rows: pd.DataFrame, sites: SiteAxis) -> None:
    axis.bar(sites.positions, rows["value"] / rows["total"], color=shades(CROSSCODERS[0], len(rows)), width=0.8)
    sites.mark(axis)
    axis.set_ylabel("Share of features")


def _draw_profiles(axis: Axes, rows: pd.DataFrame, sites: SiteAxis) -> None:
    hooks = [site.hook for site in sites.sites]
    for place, colour in enumerate(shades(CROSSCODERS[0], len(hooks))):
        own = rows[rows["other_hook"] == hooks[place]]
        if len(own):
            axis.plot(sites.positions, own["value"], color=colour)
            axis.plot(sites.positions[place], own["value"].iloc[place], "o", color=colour)
    sites.mark(axis)
    axis.set_ylim(0, 1.05)
    axis.set_ylabel("Mean normalised norm")


def _draw_costs(figure: Figure, rows: pd.DataFrame, sites: SiteAxis, frame: Frame, row: float) -> None:
    """Draw the further rows: loss change against L0, one panel a layer."""
    names, count = site_names(sites.sites), len(sites.sites)
    lines, columns = -(-count // A_ROW), min(count, A_ROW)
    width = (frame.width - LEFT - frame.right - (columns - 1) * NARROW) / columns
    for place, site in enumerate(sites.sites):
        line, column = divmod(place, A_ROW)
        bottom = BOTTOM + (lines - 1 - line) * row
        axis = panel(figure, LEFT + column * (width + NARROW), bottom, width, row - BOTTOM - TOP)
        ends = _draw_layer(axis, rows[rows["hook"] == site.hook])
        _limits(axis, rows)
        axis.text(0.96, 1.0, names[place], ha="right", va="bottom", transform=axis.transAxes, color=GREY)
        if column == 0:
            axis.set_ylabel("Loss change (nats)")
        else:
            axis.tick_params(labelleft=False)
        if place == 0:
            letter(axis, "e")
        if place == min(count, A_ROW) - 1:
            label_ends(axis, ends)


def _draw_layer(axis: Axes, rows: pd.DataFrame) -> list[End]:
    ends = []
    for (kind, (colour, marker)), name in zip(KINDS.items(), NAMES, strict=True):
        for _, own in rows[rows["kind"] == kind].groupby("dictionary", sort=False):
            axis.plot(own["x"], own["value"], color=colour, marker=marker, markersize=2.5)
            last = own[["x", "value"]].iloc[-1]
            ends.append(End(float(last["x"]), float(last["value"]), name, colour))
    return ends


def _limits(axis: Axes, rows: pd.DataFrame) -> None:
    """Give the panels of all layers one frame: L0 on a log axis, and losses too where all of them are above 0."""
    left, right = float(rows["x"].min()) / 1.2, float(rows["x"].max()) * 1.2
    low, high = float(rows["value"].min()), float(rows["value"].max())
    axis.set_xscale("log")
    axis.set_xlim(left, right)
    ticks = l0_ticks(left, right)
    axis.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 3)] if ticks else [left, right]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("L0")
    if low > 0:
        axis.set_yscale("log")
        axis.set_ylim(low / 1.3, high * 1.3)
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    parts = dict(list(numbers.groupby("panel", sort=False)))
    span, peak, cost = parts["span"], parts["peak"], parts["cost"]
    total, shares = int(span["total"].iloc[0]), span["value"] / span["total"]
    names = site_names([Site(*site) for site in peak[SITE].itertuples(index=False)])
    top, most = names[int(peak["value"].to_numpy().argmax())], peak["value"].max() / total
    mean = rounded(float((span["x"] * shares).sum()))
    losses = []
    for kind in cost["kind"].unique():
        own = cost[cost["kind"] == kind]
        ends = [rounded(end) for name in ("value", "x") for end in (own[name].min(), own[name].max())]
        losses.append(f"{' to '.join(ends[:2])} nats ({kind}, L0 {' to '.join(ends[2:])})")
    runs = counted(len(cost[["dictionary", "point"]].drop_duplicates()), "run")
    tokens = among(cost["tokens"].astype(int).tolist(), "heldout token")
    return Caption(
        TITLE,
        DESCRIPTION,
        f"Of {counted(total, 'feature')}, {shares.iloc[0]:.0%} are above tau at one layer and {shares.iloc[-1]:.0%} at "
        f"all {len(span)}; the mean is {mean} layers. Most are largest at {top} ({most:.0%}). Patching one layer "
        f"changes the loss by {listed(losses)}.",
        f"{span['dictionary'].iloc[0]}/{span['point'].iloc[0]} (a to c), and {runs} in all",
        f"{counted(int(span['tokens'].iloc[0]), 'heldout row')} and {tokens}",
    )
