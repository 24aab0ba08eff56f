"""Axes over sites: log training step with step 0 in a slot of its own, or sites by name."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from ontogeny.config.figures import FigureStyle
from ontogeny.figures.style import THIN, room, size_of
from ontogeny.site_names import axis_title, over_steps, site_names, step_name
from ontogeny.sites import Site
from ontogeny.step_scale import GAP, StepScale, step_scale

MM_PER_STEP = 4.5
"""Millimetres that the name of a step takes at least."""
MM_PER_NAME = 3.0
"""Millimetres that a name below a panel takes at least."""


def mark_steps(scale: StepScale, axis: Axes) -> None:
    """Give an axis its ticks, its limits, its label and the break after step 0."""
    major, minor = scale.ticks(int(size_of(axis)[0] / MM_PER_STEP))
    zero = [scale.slot] if scale.zero else []
    names = ["0"] * scale.zero + [step_name(step) for step in major]
    axis.xaxis.set_major_locator(FixedLocator([*zero, *np.log10(major)]))
    axis.xaxis.set_major_formatter(FixedFormatter(names))
    axis.xaxis.set_minor_locator(FixedLocator([float(x) for x in np.log10(minor)]) if minor else NullLocator())
    margin = 0.05 * scale.length
    left = scale.slot if scale.zero else np.log10(scale.first)
    axis.set_xlim(left - margin, np.log10(scale.first) + scale.length + margin)
    axis.set_xlabel("Training step")
    if scale.zero:
        cut(axis, (scale.slot + float(np.log10(scale.first))) / 2, GAP * scale.length / 7)


def cut(axis: Axes, x: float, half_width: float) -> None:
    """Break the lower edge of a panel at `x` by two strokes."""
    transform = axis.get_xaxis_transform()
    ends = (x - half_width, x + half_width)
    axis.plot(ends, (0, 0), color="white", linewidth=3 * THIN, transform=transform, clip_on=False, zorder=4)
    stroke = [(-0.5, -1.0), (0.5, 1.0)]
    axis.plot(
        ends, (0, 0), linestyle="none", marker=stroke, markersize=5, color=axis.spines["bottom"].get_edgecolor(),
        markeredgewidth=THIN, transform=transform, clip_on=False, zorder=5,
    )  # fmt: skip


class SiteAxis(NamedTuple):
    """The site axis of a dictionary on paper."""

    sites: tuple[Site, ...]
    """Sites, in order."""
    positions: NDArray[np.float64]
    """Centre of each site, (S,)."""
    edges: NDArray[np.float64]
    """Left and right edge of each site's cell, (S, 2)."""
    scale: StepScale | None
    """Scale of the training step, or None where sites stand side by side with their names."""

    def depth(self, style: FigureStyle) -> float:
        """Millimetres below a panel for the ticks and the label of this axis."""
        rotated = self.scale is None and _rotated(site_names(self.sites))
        return 6.5 + room(site_names(self.sites), style, 0) if rotated else 9.5

    def mark(self, axis: Axes) -> None:
        """Give an axis its ticks, its limits and its label."""
        if self.scale is not None:
            mark_steps(self.scale, axis)
        else:
            names = site_names(self.sites)
            every = -(-len(names) // max(int(size_of(axis)[0] / MM_PER_NAME), 1))
            rotation = 90 if _rotated(names) else 0
            axis.set_xticks(self.positions[::every], names[::every], rotation=rotation)
            axis.set_xlabel(axis_title(self.sites))
        axis.set_xlim(self.edges.min(), self.edges.max())

    def mark_both(self, axis: Axes) -> None:
        """Mark a panel whose two axes are this one; step 0 stands apart on the vertical one without a break."""
        self.mark(axis)
        axis.set_yticks(axis.get_xticks(), [label.get_text() for label in axis.get_xticklabels()])
        axis.set_yticks(axis.get_xticks(minor=True), minor=True)
        axis.set_ylim(axis.get_xlim())
        axis.set_ylabel(axis.get_xlabel())

    @property
    def noun(self) -> str:
        """What a site of this axis is called: a checkpoint where the training step alone tells sites apart."""
        return "site" if self.scale is None else "checkpoint"

    def line(self, axis: Axes, values: ArrayLike, look: Mapping[str, Any]) -> None:
        """Draw one value a site as lines over the stretches; what leads over the break after step 0 is dotted.

        Without a scale, a stretch of one site, which no line would show, has a marker whether `look` has one or not.
        """
        y = np.asarray(values, dtype=np.float64)
        for stretch in self._stretches():
            x = self.positions[stretch]
            unseen = self.scale is None and len(x) == 1
            shown: dict[str, Any] = {"marker": "o", "markersize": 2, **look} if unseen else dict(look)
            axis.plot(x, y[stretch], **shown)
        if self.scale is not None and self.scale.zero:
            axis.plot(self.positions[:2], y[:2], linestyle=":", linewidth=THIN, color=look["color"])

    def band(self, axis: Axes, low: ArrayLike, high: ArrayLike, colour: str) -> None:
        """Draw a range a site as bands over the stretches, and as a bar where a stretch is one site."""
        bottom, top = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        for stretch in self._stretches():
            x = self.positions[stretch]
            if len(x) > 1:
                axis.fill_between(x, bottom[stretch], top[stretch], color=colour, alpha=0.2, linewidth=0)
            else:
                axis.vlines(x, bottom[stretch], top[stretch], color=colour, linewidth=THIN)

    def _stretches(self) -> list[slice]:
        """Cut the sites after step 0 and, without a scale, wherever more changes than the step or the hook."""
        changes = [
            [name for name in Site._fields if getattr(here, name) != getattr(after, name)]
            for here, after in pairwise(self.sites)
        ]
        if self.scale is not None:
            cuts = [1] if self.scale.zero else []
        else:
            cuts = [n + 1 for n, change in enumerate(changes) if change not in (["step"], ["hook"])]
        return [slice(*ends) for ends in pairwise([0, *cuts, len(self.sites)])]


def site_axis(sites: Sequence[Site]) -> SiteAxis:
    """Lay sites out: by training step where they are one model's checkpoints at one hook, else side by side."""
    steps = [site.step for site in sites]
    if not over_steps(sites):
        positions = np.arange(len(sites), dtype=np.float64)
        return SiteAxis(tuple(sites), positions, positions[:, None] + np.array([-0.5, 0.5]), None)
    ordered = tuple(sorted(sites, key=lambda site: site.step))
    scale = step_scale(steps)
    positions = scale.positions(sorted(steps))
    return SiteAxis(ordered, positions, _edges(positions, scale), scale)


def _edges(positions: NDArray[np.float64], scale: StepScale) -> NDArray[np.float64]:
    """Cells that meet half-way between steps; that of step 0 stands alone."""
    half_slot = GAP * scale.length / 3
    after = positions[1:] if scale.zero else positions
    middles = (after[1:] + after[:-1]) / 2
    first, last = (middles[0] - after[0], after[-1] - middles[-1]) if len(after) > 1 else (half_slot, half_slot)
    borders = np.concatenate([[after[0] - min(first, half_slot)], middles, [after[-1] + last]])
    edges = np.stack([borders[:-1], borders[1:]], axis=1)
    if not scale.zero:
        return edges
    return np.concatenate([[[scale.slot - half_slot, scale.slot + half_slot]], edges])


def _rotated(names: Sequence[str]) -> bool:
    return sum(map(len, names)) > 24
