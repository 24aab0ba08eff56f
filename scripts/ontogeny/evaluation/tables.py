"""The tidy table of metrics: one row per dictionary, run, site, split and metric."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ontogeny.errors import UserError
from ontogeny.sites import Site

COLUMNS = (
    "dictionary",
    "run",
    "latents",
    "sparsity",
    "seed",
    "model",
    "step",
    "hook",
    "split",
    "metric",
    "value",
    "tokens",
)
"""Columns of every table of metrics, in order; `model`, `step` and `hook` are empty where sites are pooled."""


class RunIdentity(NamedTuple):
    """What the first columns say of a run."""

    dictionary: str
    """Name of the dictionary in the study."""
    run: str
    """Name of the run."""
    latents: int
    """Number of features."""
    sparsity: float
    """k, or the sparsity coefficient."""
    seed: int
    """Seed of the run."""


class Measurement(NamedTuple):
    """One number."""

    site: Site | None
    """Where it holds; None where sites are pooled."""
    metric: str
    """Name of the metric, such as `fvu`."""
    value: float
    """The number."""
    tokens: int
    """Token positions that it was measured on."""


def read_identity(dictionary: Path) -> RunIdentity:
    """Read what a run is from its `config.json`.

    Args:
        dictionary: folder of the run.

    Raises:
        UserError: the folder holds no finished run.
    """
    file = dictionary / "config.json"
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected the folder of a trained run, with crosscoder.safetensors")
    config = json.loads(file.read_text())
    missing = [name for name in RunIdentity._fields if name not in config]
    if missing:
        raise UserError(f"{file}: key {missing[0]!r} is missing; train the run again")
    return RunIdentity(*(config[name] for name in RunIdentity._fields))


def metrics_table(identity: RunIdentity, measurements: Sequence[Measurement], split: str = "heldout") -> pd.DataFrame:
    """Lay measurements out as the tidy table, sorted by site (pooled first) and metric."""
    rows = [
        (*identity, *(measured.site or (None, None, None)), split, measured.metric, measured.value, measured.tokens)
        for measured in measurements
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"step": "Int64"})
    return table.sort_values(["model", "step", "hook", "metric"], na_position="first", ignore_index=True)
