"""The site axis of a run on a page: checkpoints, layers, two models, one site, or anything else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ontogeny.database.documents import MeasuredSite
from ontogeny.site_names import axis_title, over_steps, site_names, step_name
from ontogeny.sites import Site
from ontogeny.step_scale import step_scale

ValueT = TypeVar("ValueT")

Kind = Literal["checkpoints", "layers", "models", "one", "sites"]
"""What sites differ by: `checkpoints` of one model at one hook, `layers` of one checkpoint, two `models`, nothing
(`one` site), or several of these (`sites`)."""

NOUNS: dict[Kind, str] = {
    "checkpoints": "checkpoint",
    "layers": "layer",
    "models": "model",
    "one": "site",
    "sites": "site",
}
"""What a site of each kind of axis is called."""

TICKS = 8
"""Steps that are written along an axis at most."""


@dataclass(frozen=True)
class Axis:
    """Sites in the order in which they are drawn, and their places."""

    kind: Kind
    """What the sites differ by."""
    title: str
    """Label of the axis."""
    names: tuple[str, ...]
    """Name of each site, such as `step 512` (S)."""
    short: tuple[str, ...]
    """The same where room is scarce, such as `512` (S)."""
    positions: tuple[float, ...]
    """Place of each site, from 0 to 1 (S)."""
    ticks: tuple[tuple[float, str], ...]
    """Places and texts of what is written along the axis."""
    gap: float | None
    """Where the axis is broken after step 0, if it is."""
    order: tuple[int, ...]
    """Number in the run of each site (S)."""

    @property
    def noun(self) -> str:
        """What a site is called."""
        return NOUNS[self.kind]

    @property
    def has_time(self) -> bool:
        """Whether the order of the sites is that of training, so that features emerge."""
        return self.kind == "checkpoints"

    @property
    def has_order(self) -> bool:
        """Whether there are sites enough, and alike enough, for classes, persistence and a peak."""
        return self.kind in ("checkpoints", "layers", "sites")

    def arranged(self, values: Sequence[ValueT]) -> list[ValueT]:
        """Put values of the run's sites into the order of the axis; none stay none."""
        return [values[site] for site in self.order] if values else []

    def place(self, site: int) -> int:
        """Find a site of the run on the axis."""
        return self.order.index(site)


def axis_of(measured: Sequence[MeasuredSite]) -> Axis:
    """Lay out the sites of a run."""
    sites = [Site(site.model, site.step, site.hook) for site in measured]
    if over_steps(sites):
        return _over_steps(sites)
    names = tuple(site_names(sites))
    places = tuple(number / max(len(sites) - 1, 1) for number in range(len(sites)))
    ticks = tuple(zip(places, names, strict=True))
    return Axis(_kind(sites), axis_title(sites), names, names, places, ticks, None, tuple(range(len(sites))))


def describe(measured: Sequence[MeasuredSite]) -> str:
    """Say in a few words what the sites of a run are."""
    models = list(dict.fromkeys(site.model for site in measured))
    hooks = list(dict.fromkeys(site.hook for site in measured))
    steps = sorted({site.step for site in measured})
    step = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} checkpoints, steps {steps[0]:,} to {steps[-1]:,}"
    hook = hooks[0] if len(hooks) == 1 else f"{len(hooks)} hook points"
    return f"{' and '.join(models)}, {step}, {hook}"


def _over_steps(sites: Sequence[Site]) -> Axis:
    order = tuple(sorted(range(len(sites)), key=lambda number: sites[number].step))
    steps = [sites[number].step for number in order]
    scale = step_scale(steps)
    raw = [float(place) for place in scale.positions(steps)]
    low, length = raw[0], raw[-1] - raw[0]
    written = [*([0] if scale.zero else []), *scale.ticks(TICKS)[0]]
    places = [(float(place) - low) / length for place in scale.positions(written)]
    positions = tuple((place - low) / length for place in raw)
    return Axis(
        kind="checkpoints",
        title="Training step",
        names=tuple(f"step {step:,}" for step in steps),
        short=tuple(map(step_name, steps)),
        positions=positions,
        ticks=tuple(zip(places, map(step_name, written), strict=True)),
        gap=positions[1] / 2 if scale.zero else None,
        order=order,
    )


def _kind(sites: Sequence[Site]) -> Kind:
    if len(sites) == 1:
        return "one"
    models, steps, hooks = ({getattr(site, field) for site in sites} for field in Site._fields)
    if len(models) == len(sites) == 2:
        return "models"
    if len(models) == len(steps) == 1 and len(hooks) == len(sites):
        return "layers"
    return "sites"
