"""What reading activations costs, cached and streamed."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ontogeny.config.activations import OPEN_SHARDS
from ontogeny.config.hooks import hook_width
from ontogeny.config.shapes import model_shape
from ontogeny.config.study import Study
from ontogeny.costs import Shape, depth
from ontogeny.sites import Site

BYTES_PER_VALUE = {"float16": 2, "int8": 1}

READINGS = 2
"""How often a run is measured on all heldout rows: by `reconstruction` and `features`."""


class Reading(NamedTuple):
    """What one way to read activations takes."""

    jobs: int
    """Jobs that do nothing else."""
    disk: float
    """Bytes of shards on disk."""
    memory: float
    """Bytes of shards in memory: of the largest job that makes them; streamed, of all processes of the largest run."""
    flop: float
    """Floating-point operations of language models."""

    def text(self) -> str:
        """Say all of it in a few words."""
        of = "a job" if self.disk else "a run"
        memory = f", up to {self.memory / 1e9:.3g} GB of memory for {of}" if self.memory else ""
        return f"{self.disk / 1e9:.3g} GB on disk{memory}, {self.flop:.2e} FLOP"


def readings(study: Study, shapes: Mapping[str, Shape]) -> dict[str, Reading]:
    """Count both ways to read the activations of a study, by the value of `activations.mode`.

    Streamed, models run whenever activations are read: for statistics (twice if there are more shards than are open at
    a time), in every epoch of every run, or of the runs that are trained together (once if they all stay open), and for
    every measurement of a run on heldout rows.

    Args:
        study: the study.
        shapes: shape of each model by name, those that are known.
    """
    train, heldout = study.shards("train"), study.shards("heldout")
    rows, stays = sum(train.values()), len(train) <= OPEN_SHARDS
    sites = study.all_sites()
    checkpoints = len({site.checkpoint for site in sites})
    all_rows, per_row = rows + sum(heldout.values()), _flop(sites, shapes)
    streamed = (1 if stays else 2) * rows * per_row
    for name, dictionary in study.dictionaries.items():
        runs = len(study.runs(name))
        readers = len(dictionary.seeds) if dictionary.sweep == "together" else runs
        passes = readers * (1 if stays else dictionary.epochs)
        read = passes * rows + runs * READINGS * sum(heldout.values())
        streamed += read * _flop(study.sites(name), shapes)
    widest = max(_bytes(study, study.sites(name), shapes) for name in study.dictionaries)
    held = sum(sorted(train.values(), reverse=True)[: 2 * OPEN_SHARDS])
    return {
        "cached": Reading(
            checkpoints * (len(train) + len(heldout)),
            all_rows * _bytes(study, sites, shapes),
            max([*train.values(), *heldout.values()]) * _harvested(study, sites, shapes),
            all_rows * per_row,
        ),
        "streamed": Reading(checkpoints, 0.0, held * widest, streamed),
    }


def _bytes(study: Study, sites: Iterable[Site], shapes: Mapping[str, Shape]) -> float:
    """Bytes of a row at some sites."""
    value, scale = BYTES_PER_VALUE[study.activations.dtype], 4 * (study.activations.dtype == "int8")
    return float(sum(width(study, site) * value + scale for site in sites if site.model in shapes))


def _harvested(study: Study, sites: Iterable[Site], shapes: Mapping[str, Shape]) -> float:
    """Bytes of a row in a job that makes shards: float32 at all hooks of a checkpoint, and what is written at one."""
    of_checkpoint: dict[tuple[str, int], list[Site]] = {}
    for site in sites:
        of_checkpoint.setdefault((site.model, site.step), []).append(site)
    return max(
        4.0 * sum(width(study, site) for site in hooks if site.model in shapes)
        + max(_bytes(study, [site], shapes) for site in hooks)
        for hooks in of_checkpoint.values()
    )


def width(study: Study, site: Site) -> int:
    """Channels of a site; those of the residual stream where the shape of the model does not tell."""
    shape = model_shape(study.models[site.model])
    return hook_width(site.hook, shape) or shape.d_model or 0


def _flop(sites: Iterable[Site], shapes: Mapping[str, Shape]) -> float:
    """FLOP of a row: each checkpoint as far as the block of its deepest hook."""
    deepest: dict[tuple[str, int], int] = {}
    for site in sites:
        key = (site.model, site.step)
        deepest[key] = max(deepest.get(key, 0), depth(site))
    return sum(shapes[name].forward_flop(blocks) for (name, _), blocks in deepest.items() if name in shapes)
