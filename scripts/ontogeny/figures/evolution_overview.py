"""The evolution of features on one page: norms of a sample, rotation of decoders, persistence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ontogeny.colours import GROUPS
from ontogeny.config.figures import EvolutionOverviewFigure, FigureStyle
from ontogeny.errors import UserError
from ontogeny.evaluation.feature_table import Features
from ontogeny.figures.axes import SiteAxis, site_axis
from ontogeny.figures.caption import Caption, counted, listed, rounded
from ontogeny.figures.norms import bracket, draw_norms, features_to_draw, norm_bar, read_geometry, sample_norms
from ontogeny.figures.student import with_interval
from ontogeny.figures.style import INK, MM_PER_INCH, THICK, THIN, letter, page, panel, room, size_of, width_of
from ontogeny.figures.tables import SITE
from ontogeny.figures.wilson import wilson_interval
from ontogeny.site_names import site_names, step_name
from ontogeny.sites import Site

TITLE = "Evolution of features"
DESCRIPTION = (
    "How features that fire on heldout rows evolve over the sites of a dictionary. Initialisation features are above "
    "tau at the first site, emergent features are not: there, their decoder norm is at most tau times its largest. "
    "(a) Normalised decoder norm of a sample with equal numbers of both classes, where each has enough, one feature a "
    "row, ordered by the site where they emerge and then by the centre of mass of their norms; the numbers at the left "
    "are how many there are. "
    "(b) Cosine of a feature's decoder at one site with its decoder at another, the mean over all features, and over "
    "those of each class; a feature counts wherever its decoder is not zero, however small its norm. The colours begin "
    "where the data do. "
    "(c) Share of the features of a class that are above tau at n sites; over checkpoints, the axis above names the "
    "step from which to the last there are n; bars are 95 % intervals by Wilson's formula, which takes the features "
    "for a sample. In the table beside the figure, cosines have their standard error over features and a 95 % interval "
    "by Student's t, cut at -1 and 1; the norms of single features are of the decoder itself. "
    "Training steps are on a log axis with step 0 in a slot of its own."
)

OTHER = [f"other_{field}" for field in SITE]
"""Columns that name the second site of a pair."""
MAPS = ("all", *GROUPS)
"""Whose cosines are shown."""
COSINES = "YlGnBu"
"""Colour map of cosines, unlike that of norms."""
LEFT, TOP, BAR = 15.0, 5.5, 2.5
NAMES, BOTTOM = 9.0, 9.5
"""Millimetres that numbers and a label take at the left of a panel and below it."""
HEATMAP = 0.29
"""Share of the width for the norms."""
GUTTER, NEAR = 6.5, 3.5
"""Millimetres between the norms and the other panels, and between maps."""
RIGHT = 14.0
"""Millimetres at the right of the maps for their colour bar."""
ASIDE = 0.12
"""How far from the middle of a bar its interval stands, that of the other class on the other side."""
KEY, ABOVE = 4.0, 11.0
"""Millimetres that the key takes before its words, and that the axis above a panel takes."""
DRAWN = [
    *("panel", "class", "row", "feature", "emergence_step", *SITE, *OTHER, "sites_above"),
    *("value", "low", "high", "standard_error", "features", "threshold", "dictionary", "run", "rows"),
]


def draw(tables: Sequence[Path], settings: EvolutionOverviewFigure, style: FigureStyle) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure.

    Args:
        tables: `features.parquet`, `rotation.csv` and `persistence.csv` of one run.
        settings: size on paper, number of features, seed of the sample, colour map of norms.
        style: what all figures share.

    Returns:
        The figure, and what is drawn, its number always in `value`: panel `norms` has a row per feature of the sample
        and site, panel `cosine` one per pair of sites and class, with its `standard_error` over `features`, and panel
        `persistence` one per class and number of `sites_above` tau, with the share and the number of `features`. Of the
        last two, `low` and `high` are a 95 % interval.

    Raises:
        UserError: a table is missing, damaged or of another run, no feature fires, or the run has one site.
    """
    if len(tables) != 3:
        raise UserError(
            f"--tables: {len(tables)} tables were named; expected features.parquet, rotation.csv and persistence.csv"
        )
    features = features_to_draw(tables[0])
    sites = site_axis(features.sites)
    numbers = values(features, sites, tables[1], tables[2], settings)
    parts = {str(name): rows for name, rows in numbers.groupby("panel", sort=False)}
    figure, bottom = page(settings), sites.depth(style)
    width, totals = HEATMAP * settings.width, features.table["class"].value_counts().to_dict()
    heatmap = panel(figure, LEFT, bottom, width, settings.height - bottom - TOP - 11)
    bar = panel(figure, LEFT, settings.height - TOP - BAR, width, BAR)
    draw_norms(heatmap, sites, parts["norms"].rename(columns={"value": "normalised_norm"}), settings.colormap)
    bracket(heatmap, parts["norms"], totals, upright=True)
    label = f"Normalised decoder norm ({counted(parts['norms']['feature'].nunique(), 'feature')})"
    norm_bar(bar, settings.colormap, features.threshold, "horizontal", label)
    letter(bar, "a", LEFT - 1)
    left = LEFT + width + GUTTER
    lower = _draw_maps(figure, left, sites, parts["cosine"], totals, style)
    _draw_persistence(figure, left, lower, sites, parts["persistence"], style)
    return figure, numbers


def values(
    features: Features, sites: SiteAxis, rotation: Path, persistence: Path, settings: EvolutionOverviewFigure
) -> pd.DataFrame:
    """Lay out what is drawn, with the columns `DRAWN`.

    Args:
        features: of the run.
        sites: its site axis as drawn.
        rotation: its `rotation.csv`.
        persistence: its `persistence.csv`.
        settings: number of features and seed of the sample.
    """
    names = [name for name in GROUPS if (features.table["class"] == name).any()]
    pairs = read_geometry(rotation, [*OTHER, "class"], features)
    lives = read_geometry(persistence, ["class", "sites_above"], features)
    wide = pairs.pivot(index=["class", *SITE, *OTHER], columns="metric", values="value").reset_index()
    shown = MAPS if len(names) > 1 else tuple(names)
    cosine = pd.concat([wide[wide["class"] == name] for name in shown]).rename(
        columns={"cosine": "value", "cosine_standard_error": "standard_error"}
    )
    lives = lives[lives["class"].isin(names)].drop(columns=SITE)
    total = lives.groupby("class")["value"].transform("sum")
    low, high = wilson_interval(lives["value"], total)
    lives = lives.assign(features=lives["value"], value=lives["value"] / total, low=low, high=high)
    cosine = with_interval(cosine.assign(groups=cosine["features"]), within=(-1, 1))
    norms = sample_norms(features, sites, settings).rename(columns={"normalised_norm": "value"})
    numbers = pd.concat([norms, cosine.assign(panel="cosine"), lives.assign(panel="persistence")], ignore_index=True)
    known = {name: features.labels[name] for name in ("dictionary", "run")}
    numbers = numbers.assign(threshold=features.threshold, rows=features.rows, **known)
    whole = ("row", "feature", "emergence_step", "step", "other_step", "sites_above", "features")
    return numbers.astype(dict.fromkeys(whole, "Int64"))[DRAWN]


def cosine_matrix(sites: SiteAxis, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Lay the cosines of pairs out as a symmetric matrix with 1 on its diagonal (shape: [S, S])."""
    place = {site: number for number, site in enumerate(sites.sites)}
    matrix_SS = np.eye(len(place))
    for row in rows[[*SITE, *OTHER, "value"]].itertuples(index=False, name=None):
        here, there = place[Site(*row[:3])], place[Site(*row[3:6])]
        matrix_SS[here, there] = matrix_SS[there, here] = row[6]
    return matrix_SS


def _draw_maps(
    figure: Figure, left: float, sites: SiteAxis, rows: pd.DataFrame, totals: dict[str, int], style: FigureStyle
) -> float:
    """Draw the maps of cosines side by side, and return the height of the lowest thing below them in millimetres."""
    width, height = (float(inches) * MM_PER_INCH for inches in figure.get_size_inches())
    names = list(rows["class"].unique())
    left += NAMES if sites.scale is not None else 4.0 + room(site_names(sites.sites), style, 0)
    side = min((width - RIGHT - left - NEAR * (len(names) - 1)) / len(names), 0.36 * height)
    bottom = height - TOP - 3 - side
    low = np.floor(10 * np.nanmin(rows["value"], initial=0.99)) / 10
    for number, name in enumerate(names):
        axis = panel(figure, left + number * (side + NEAR), bottom, side, side)
        _draw_map(axis, sites, cosine_matrix(sites, rows[rows["class"] == name]), low)
        count = totals.get(name, sum(totals.values()))
        axis.set_title(f"{name} ({count:,})", fontsize=style.font_size - 1, color=GROUPS.get(name, INK), pad=3)
        if number:
            axis.tick_params(labelleft=False)
            axis.set_ylabel("")
        else:
            letter(axis, "b", left - LEFT - HEATMAP * width - GUTTER + 2)
    bar = panel(figure, left + len(names) * (side + NEAR) - 1, bottom, BAR, side)
    colours = axis.figure.colorbar(ScalarMappable(Normalize(low, 1), COSINES), cax=bar)
    colours.set_label("Mean cosine")
    colours.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    colours.update_ticks()
    colours.outline.set_visible(False)
    return bottom - sites.depth(style)


def _draw_map(axis: Axes, sites: SiteAxis, matrix_SS: NDArray[np.float64], low: float) -> None:
    """Draw a matrix with the cells of the site axis both ways; between step 0 and the others nothing is drawn."""
    borders = np.unique(sites.edges)
    cells = np.full((len(borders) - 1,) * 2, np.nan)
    places = np.searchsorted(borders, sites.edges[:, 0])
    cells[np.ix_(places, places)] = matrix_SS
    axis.pcolormesh(borders, borders, cells, cmap=COSINES, vmin=low, vmax=1, rasterized=True)
    sites.mark_both(axis)
    axis.set_aspect("equal")


def _draw_persistence(
    figure: Figure, left: float, top: float, sites: SiteAxis, rows: pd.DataFrame, style: FigureStyle
) -> None:
    """Draw the share of each class by the number of sites above tau as histograms, one filled and one in outline."""
    width, count = float(figure.get_size_inches()[0]) * MM_PER_INCH, len(sites.sites)
    groups = {str(name): of_class.sort_values("sites_above") for name, of_class in rows.groupby("class", sort=False)}
    labels = {name: f"{name}\n{of_class['features'].sum():,} features" for name, of_class in groups.items()}
    right, gap = room(labels.values(), style) + KEY, ABOVE if sites.scale is not None else 5.0
    axis = panel(figure, left + NAMES, BOTTOM, width - left - NAMES - right, top - BOTTOM - gap)
    for name, of_class in groups.items():
        shares, filled = of_class["value"].to_numpy(), name == "initialisation"
        axis.stairs(shares, np.arange(count + 1) + 0.5, fill=filled, **_look(name))
        at = of_class["sites_above"].to_numpy(dtype=np.float64) + (-ASIDE if filled else ASIDE)
        axis.vlines(at, of_class["low"], of_class["high"], color=GROUPS[name], linewidth=THIN)
    axis.set_xlim(0.5, count + 0.5)
    axis.set_ylim(0, 1.06 * rows["high"].max())
    axis.set_ylabel("Share of class")
    axis.locator_params(axis="y", nbins=5)
    steps = [step_name(site.step) for site in sites.sites[::-1]]
    widest = max(width_of(name, style.font_size - 1) for name in (steps if sites.scale is not None else ["00"]))
    ticks = np.arange(count, 0, -int(np.ceil(count * (widest + 1.5) / size_of(axis)[0])))[::-1]
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set_xlabel(f"{sites.noun.capitalize()}s above τ = {rows['threshold'].iloc[0]:g}, of {count}")
    if sites.scale is not None:
        above = axis.twiny()
        above.spines["top"].set_visible(True)
        above.set_xlim(axis.get_xlim())
        above.set_xticks(ticks, [steps[n - 1] for n in ticks])
        above.set_xlabel("As many as from this step to the last")
    _draw_key(axis, labels)
    letter(axis, "c", 11.0)


def _look(name: str) -> dict[str, Any]:
    """Fill the histogram of initialisation features, and draw that of emergent ones in outline."""
    if name == "initialisation":
        return {"facecolor": GROUPS[name], "edgecolor": "none", "alpha": 0.45}
    return {"facecolor": "none", "edgecolor": GROUPS[name], "linewidth": 1.3 * THICK}


def _draw_key(axis: Axes, labels: dict[str, str]) -> None:
    """Name the classes at the right of a panel, each beside a piece of its histogram."""
    width, height = size_of(axis)
    for number, (name, text) in enumerate(labels.items()):
        left, top = 1 + 2 / width, 1 - 9 * number / height
        piece = Rectangle((left, top - 2 / height), 3 / width, 2 / height, clip_on=False, **_look(name))
        axis.add_patch(piece).set_transform(axis.transAxes)
        axis.text(
            left + 4 / width, top, text, color=GROUPS[name], transform=axis.transAxes, va="top", fontsize="small",
            linespacing=1.1,
        )  # fmt: skip


def caption(numbers: pd.DataFrame) -> Caption:
    """Say in words what `draw` drew."""
    parts = {str(name): rows for name, rows in numbers.groupby("panel", sort=False)}
    sites = [Site(*site) for site in parts["norms"][SITE].drop_duplicates().itertuples(index=False)]
    noun = counted(len(sites), site_axis(sites).noun)
    finding = _rotation_in_words(sites, parts["cosine"])
    for name, rows in parts["persistence"].groupby("class", sort=False):
        ordered = rows.sort_values("sites_above")
        half = ordered["sites_above"].iloc[int((ordered["value"].cumsum() >= 0.5).argmax())]
        finding += (
            f" Half of the {name} features are above tau = {rows['threshold'].iloc[0]:g} at {half} of {noun} or fewer"
        )
        finding += f", {ordered['value'].iloc[-1]:.0%} at all." if name == "initialisation" else "."
    first = numbers.iloc[0]
    run, tokens = f"run {first['run']} of {first['dictionary']}", counted(int(first["rows"]), "heldout row")
    return Caption(TITLE, DESCRIPTION, finding, run, tokens)


def _rotation_in_words(sites: Sequence[Site], rows: pd.DataFrame) -> str:
    """Say how far decoders turn from the first site to the last, and between which neighbours they turn most."""
    names = site_names(sites)
    matrices = {
        str(name): cosine_matrix(site_axis(sites), of_class) for name, of_class in rows.groupby("class", sort=False)
    }
    far = [f"{rounded(matrix_SS[0, -1])} for {name} features" for name, matrix_SS in matrices.items()]
    steps = np.diagonal(next(iter(matrices.values())), offset=1)
    most = int(np.where(np.isfinite(steps), steps, np.inf).argmin())
    error = rows["standard_error"].max()
    within = f" Standard errors over features are at most {rounded(error)}." if np.isfinite(error) else ""
    return (
        f"The mean cosine of {names[0]} with {names[-1]} is {listed(far)}; of neighbours, {names[most]} and "
        f"{names[most + 1]} differ most ({rounded(steps[most])}).{within}"
    )
