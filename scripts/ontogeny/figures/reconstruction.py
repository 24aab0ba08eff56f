"""Error of a dictionary and loss of the model with it in place, site by site."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ontogeny.colours import shades
from ontogeny.config.figures import FigureStyle, ReconstructionFigure
from ontogeny.errors import UserError
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, among, counted, listed, rounded
from ontogeny.figures.one_site import AT_ONE_SITE, draw_at_one_site, names_at_one_site
from ontogeny.figures.style import (
    CROSSCODERS,
    GREY,
    INK,
    LIGHT,
    SHADE,
    SINGLES,
    THIN,
    End,
    label_ends,
    letter,
    page,
    panel,
    room,
)  # fmt: skip
from ontogeny.figures.tables import RUN, SITE, over_seeds, read_metrics, sites_of
from ontogeny.site_names import site_names
from ontogeny.sites import Site

TITLE = "Reconstruction at every site"
DESCRIPTION = (
    "How well a dictionary reconstructs activations, and what that costs the language model. "
    "(a) Fraction of variance unexplained (FVU) of heldout activations; predicting their mean gives 1. "
    "(b) Next-token loss of the model as it is (clean, strokes), with the dictionary's reconstruction in place "
    "of its activations, and with their mean or zero (open) instead. "
    "(c) Share of the ablated loss that the reconstruction recovers: 1 is the clean model, 0 the ablation, and above 1 "
    "the model predicts better with the reconstruction than without. "
    "It is not drawn where an ablation costs too little to tell (grey); triangles at an edge stand for values beyond. "
    "One shade per sparsity, darker for more active features; over seeds, lines are means and bands reach from the "
    "lowest to the highest; with one seed there is no interval, and both are the value itself. "
    "Training steps are on a log axis with step 0 in a slot of its own. "
    "Planted activations have no model, and (a) alone."
)

METRICS = {
    "fvu": ("fvu", "reconstructed"),
    "nll_clean": ("loss", "clean"),
    "nll_reconstructed": ("loss", "reconstructed"),
    "nll_mean_ablated": ("loss", "mean ablation"),
    "nll_zero_ablated": ("loss", "zero ablation"),
    "recovered_mean": ("recovered", "mean ablation"),
    "recovered_zero": ("recovered", "zero ablation"),
}
"""Panel and series that show a metric."""

PANELS = ("fvu", "loss", "recovered")
LEFT, TOP, GUTTER = 12.0, 5.5, 11.0
LOWEST, HIGHEST = -0.1, 1.25
"""Recovered shares beyond are drawn here, as triangles."""
FLOORS = (0.8, 0.5, 0.0, LOWEST)
"""Where the axis of recovered shares may begin."""
RING = {"markersize": 1.5, "markerfacecolor": "white", "markeredgewidth": 0.5, "zorder": 3}
OPEN = {"linestyle": "--", "linewidth": THIN, **RING}
"""Look of what is measured with zero in place of activations; it shows on the dot of the mean, too."""
COLUMNS = ["panel", "series", *RUN, "l0", *SITE, "seeds", "value", "low", "high", "tokens"]


def draw(tables: Sequence[Path], settings: ReconstructionFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `reconstruction.csv` and `nll-<model>.csv` of every run of one dictionary; without losses there is
            one panel.
        settings: size on paper, and which ablations cost enough.
        style: what all figures share.

    Returns:
        The figure, and what is drawn: one row per panel (`fvu`, `loss`, `recovered`), series, point of the sweep and
        site, with the extremes over `seeds` as `low` and `high`, and the pooled `l0` that names a run.

    Raises:
        UserError: a table is missing, damaged or empty, or there is no FVU of any site.
    """
    numbers = values(read_metrics(tables), settings.smallest_cost)
    sites = site_axis(sites_of(numbers))
    alone, looks = len(sites.sites) == 1, _looks(numbers)
    names = [name for name in PANELS if (numbers["panel"] == name).any()]
    figure = page(settings)
    bottom = 9.5 if alone else sites.depth(style)
    labels = {"fvu": [look.label for look in looks.values()], "loss": ["reconstructed"], "recovered": ["ablation"]}
    gaps = [room((names_at_one_site(numbers) if alone else labels)[name], style) + GUTTER for name in names]
    width = (settings.width - LEFT - sum(gaps) + GUTTER) / len(names)
    for place, name in enumerate(names):
        left = LEFT + place * width + sum(gaps[:place])
        axis = panel(figure, left, bottom, width, settings.height - bottom - TOP)
        if alone:
            draw_at_one_site(axis, numbers, name)
        else:
            _draw_panel(axis, sites, numbers[numbers["panel"] == name], looks, settings.smallest_cost)
        if len(names) > 1:
            letter(axis, "abc"[place])
    return figure, numbers


def values(metrics: pd.DataFrame, smallest_cost: float) -> pd.DataFrame:
    """Choose what is drawn, over seeds, with the columns `COLUMNS`.

    Args:
        metrics: as `read_metrics` returns it.
        smallest_cost: nats per token that an ablation must cost before the recovered share is kept.
    """
    at_sites = metrics[metrics["model"] != ""]
    if "fvu" not in set(at_sites["metric"]):
        raise UserError("--tables: no table has the FVU of a site; expected reconstruction.csv of every run")
    dictionaries = list(metrics["dictionary"].unique())
    if len(dictionaries) > 1:
        raise UserError(f"--tables: they are of {listed(dictionaries)}; expected the runs of one dictionary")
    parts = []
    for metric in [name for name in METRICS if (at_sites["metric"] == name).any()]:
        part = over_seeds(at_sites, (metric,)).set_axis(
            [*RUN, *SITE, "seeds", "tokens", "value", "low", "high"], axis=1
        )
        parts.append(part.assign(panel=METRICS[metric][0], series=METRICS[metric][1]))
    pooled = metrics[(metrics["model"] == "") & (metrics["metric"] == "l0")]
    table = pd.concat(parts, ignore_index=True).join(pooled.groupby(RUN)["value"].mean().rename("l0"), on=RUN)
    table = table[table["value"].notna() & (_cost(table) >= smallest_cost)]
    places = {site: place for place, site in enumerate(site_axis(sites_of(at_sites)).sites)}
    table["place"] = [places[Site(*site)] for site in table[SITE].itertuples(index=False)]
    table["rank"] = table["panel"].map(PANELS.index)
    return table.sort_values(["rank", "series", "latents", "sparsity", "point", "place"], ignore_index=True)[COLUMNS]


def _cost(table: pd.DataFrame) -> pd.Series:
    """Nats that the ablation behind each recovered share costs; infinite for all other rows."""
    keys = [*RUN, *SITE]
    losses = table[table["panel"] == "loss"].set_index([*keys, "series"])["value"]
    here = pd.MultiIndex.from_frame(table[[*keys, "series"]])
    clean = pd.MultiIndex.from_frame(table[keys].assign(series="clean"))
    cost = pd.Series(losses.reindex(here).to_numpy() - losses.reindex(clean).to_numpy(), index=table.index)
    return cost.where(table["panel"] == "recovered", np.inf)


class Look(NamedTuple):
    """How a run is drawn in every panel: a point of the sweep, over its seeds."""

    label: str
    """L0, latents where they differ, and what was swept where that tells no two runs apart."""
    colour: str
    """Darker for more active features."""
    dashes: str
    """By latents."""


Looks = Mapping[str, Look]


def _looks(numbers: pd.DataFrame) -> Looks:
    """Give every point of the sweep its look, from few active features to many."""
    runs = numbers[["point", "latents", "l0"]].drop_duplicates().sort_values(["l0", "latents", "point"])
    sizes = sorted(runs["latents"].unique())
    colours = shades(CROSSCODERS[0] if len(sites_of(numbers)) > 1 else SINGLES[0], len(runs))
    sizes_named = [f"\n{counted(int(latents), 'latent')}" if len(sizes) > 1 else "" for latents in runs["latents"]]
    labels = [f"L0 {rounded(l0)}{size}" for l0, size in zip(runs["l0"], sizes_named, strict=True)]
    looks: dict[str, Look] = {}
    for (point, latents, _), label, colour in zip(runs.itertuples(index=False), labels, colours, strict=True):
        own = f"\n{point.partition('-')[2]}" if labels.count(label) > 1 else ""
        looks[point] = Look(label + own, colour, ("-", "--", "-.", ":")[sizes.index(latents) % 4])
    return looks


def _line(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, look: Mapping[str, Any]) -> End:
    """Draw one value a site, with a band over seeds, and return the end of the line."""
    by_site = rows.groupby(SITE, sort=False)[["value", "low", "high"]].mean()
    y, low, high = by_site.reindex(pd.MultiIndex.from_tuples(sites.sites)).to_numpy().T
    sites.line(axis, y, {"marker": "o", "markersize": 2, **look})
    if rows["seeds"].max() > 1:
        sites.band(axis, low, high, look["color"])
    last = np.flatnonzero(np.isfinite(y))[-1]
    return End(sites.positions[last], y[last], "", str(look["color"]))


def _lines(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, looks: Looks, look: Mapping[str, Any]) -> list[End]:
    """Draw a line for every run among `rows`, and return their ends, named."""
    ends = []
    for point, own in looks.items():
        part = rows[rows["point"] == point]
        if len(part):
            end = _line(axis, sites, part, {"color": own.colour, "linestyle": own.dashes, **look})
            ends.append(end._replace(text=own.label))
    return ends


def _draw_panel(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, looks: Looks, smallest_cost: float) -> None:
    sites.mark(axis)
    name = rows["panel"].iloc[0]
    {"fvu": _draw_fvu, "loss": _draw_loss, "recovered": _draw_recovered}[name](axis, sites, rows, looks)
    if name == "recovered":
        _shade(axis, sites, rows, smallest_cost)
    axis.locator_params(axis="y", nbins=6)


def _draw_fvu(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, looks: Looks) -> None:
    ends = _lines(axis, sites, rows, looks, {})
    axis.set_ylim(0, 1.08 * rows["high"].max())
    axis.set_ylabel("Unexplained variance (FVU)")
    label_ends(axis, ends)


def _draw_loss(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, looks: Looks) -> None:
    parts = dict(list(rows.groupby("series")))
    ends = []
    for name, look in (("zero ablation", OPEN), ("mean ablation", {"linewidth": THIN})):
        if name in parts:
            end = _line(axis, sites, parts[name], {"color": GREY, **look})
            ends.append(end._replace(text=name.replace(" ", "\n")))
    if "reconstructed" in parts:
        last = _lines(axis, sites, parts["reconstructed"], looks, {})[-1]
        ends.append(last._replace(text="reconstructed"))
    if "clean" in parts:
        stroke = {"color": INK, "linewidth": THIN, "marker": "_", "markersize": 6, "markeredgewidth": THIN}
        ends.append(_line(axis, sites, parts["clean"], stroke)._replace(text="clean"))
    axis.margins(y=0.05)
    axis.set_ylim(axis.get_ylim())
    axis.set_ylabel("Next-token loss (nats)")
    label_ends(axis, ends)


def _draw_recovered(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, looks: Looks) -> None:
    ends = []
    for name, look in (("zero ablation", OPEN), ("mean ablation", {})):
        part = rows[rows["series"] == name]
        if len(part):
            drawn = _lines(axis, sites, part.assign(value=part["value"].clip(LOWEST, HIGHEST)), looks, look)
            ends.append(drawn[-1]._replace(text=f"vs {name}".replace(" ablation", "\nablation")))
    for edge, beyond, marker in ((LOWEST, rows["value"] < LOWEST, "v"), (HIGHEST, rows["value"] > HIGHEST, "^")):
        axis.plot(_at(sites, rows[beyond]), [edge] * beyond.sum(), marker, color=GREY, clip_on=False)
    axis.axhline(1, color=LIGHT, linewidth=THIN, zorder=0)
    floor = next((floor for floor in FLOORS if floor < rows["value"].min()), LOWEST)
    axis.set_ylim(floor, min(max(rows["value"].max(), 1) + 0.05 * (1 - floor), HIGHEST))
    axis.set_ylabel("Loss recovered (share)")
    label_ends(axis, ends)


def _at(sites: SiteAxis, rows: pd.DataFrame) -> list[float]:
    where = dict(zip(sites.sites, sites.positions, strict=True))
    return [float(where[Site(*site)]) for site in rows[SITE].itertuples(index=False)]


def _shade(axis: Axes, sites: SiteAxis, rows: pd.DataFrame, smallest_cost: float) -> None:
    """Mark the sites where no ablation costs enough for a recovered share."""
    measured = set(sites_of(rows))
    empty = [number for number, site in enumerate(sites.sites) if site not in measured]
    runs = np.split(empty, np.flatnonzero(np.diff(empty) > 1) + 1) if empty else []
    for run in runs:
        axis.axvspan(sites.edges[run[0], 0], sites.edges[run[-1], 1], color=SHADE, linewidth=0, zorder=0)
    if runs:
        widest = max(runs, key=lambda run: sites.edges[run[-1], 1] - sites.edges[run[0], 0])
        middle = (sites.edges[widest[0], 0] + sites.edges[widest[-1], 1]) / 2
        axis.text(
            middle, 0.5, f"ablation costs\n< {rounded(smallest_cost)} nats", color=GREY, rotation=90,
            ha="center", va="center", fontsize="small", transform=axis.get_xaxis_transform(),
        )  # fmt: skip


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    looks = _looks(numbers)
    names = dict(zip(sites := sites_of(numbers), site_names(sites), strict=True))
    fvu, recovered = [], []
    for point, look in looks.items():
        run = numbers[numbers["point"] == point]
        label = look.label.replace("\n", ", ")
        rows = run[run["panel"] == "fvu"].sort_values("value", kind="stable").iloc[[0, -1]].drop_duplicates()
        ends = [f"{rounded(row['value'])} ({names[Site(*row[SITE])]})" for _, row in rows.iterrows()]
        fvu.append(f"{' to '.join(ends)} at {label}")
        shares = run.loc[(run["panel"] == "recovered") & (run["series"] == "mean ablation"), "value"]
        if len(shares):
            ends = [rounded(share) for share in sorted({shares.min(), shares.max()})]
            recovered.append(f"{' to '.join(ends)} at {label}")
    finding = f"Lowest and highest FVU: {'; '.join(fvu)}."
    if recovered:
        finding += f" Share of the loss under mean ablation recovered: {'; '.join(recovered)}."
    measured = {"fvu": "heldout row", "loss": "heldout token"}
    tokens = [
        among(numbers.loc[numbers["panel"] == kind, "tokens"].astype(int).tolist(), noun)
        for kind, noun in measured.items()
        if (numbers["panel"] == kind).any()
    ]
    count = int(numbers.drop_duplicates("point")["seeds"].sum())
    runs = f"{counted(count, 'run')} of {numbers['dictionary'].iloc[0]}"
    title, description = AT_ONE_SITE if len(sites) == 1 else (TITLE, DESCRIPTION)
    return Caption(title, description, finding, runs, listed(tokens))
