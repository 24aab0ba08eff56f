"""The geometry of a run as tables: rotation, classes, persistence and dimensionality."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ontogeny.command import progress
from ontogeny.crosscoder.model import CONFIG_FILE, WEIGHTS_FILE
from ontogeny.errors import UserError
from ontogeny.evaluation.feature_table import Features, read_features
from ontogeny.evaluation.geometry import RotationSums, class_counts, persistence_counts, total_dimensionality
from ontogeny.evaluation.tables import Measurement, RunIdentity, metrics_table, read_identity
from ontogeny.files import write_csv
from ontogeny.sites import Site

GROUPS = ("all", "initialisation", "emergent")
"""Classes of features in the tables of rotation; in that of persistence without `all`."""

SWEEP = tuple(round(0.1 + 0.02 * n, 2) for n in range(41))
"""Values of tau at which classes are counted beside that of the study."""

BLOCK = 2**23
"""Numbers of a decoder that are read at once, 64 MiB in float64."""


class Decoder:
    """The decoder of a run on disk, of which the features that fire are read, a block at a time."""

    def __init__(self, dictionary: Path, features: Features) -> None:
        file = dictionary / WEIGHTS_FILE
        try:
            with safe_open(file, framework="pt") as tensors:
                self._slice: Any = tensors.get_slice("W_dec")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file}: cannot be read ({error}); train the run again") from None
        latents, self.sites, self.d_model = self._slice.get_shape()
        self.alive = torch.zeros(latents, dtype=torch.bool)
        self.alive[features.table["feature"].tolist()] = True

    def over_sites(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all sites of blocks of features: their numbers, and decoders of those that fire (shape: [B, S, D])."""
        for block in self._blocks(self.sites * self.d_model):
            yield block, self._slice[block][self.alive[block]]

    def at_site(self, site: int) -> Iterator[Tensor]:
        """Yield the decoders of features that fire at one site, in blocks (shape: [B, D])."""
        for block in self._blocks(self.d_model):
            yield self._slice[block, site][self.alive[block]]

    def _blocks(self, numbers: int) -> Iterator[slice]:
        size = max(BLOCK // numbers, 1)
        for start in range(0, len(self.alive), size):
            yield slice(start, min(start + size, len(self.alive)))


def write_geometry(dictionary: Path, features: Path, out: Path) -> dict[str, float]:
    """Measure the geometry of a run and write four tables.

    All have the columns of tables of metrics, and these beside them. `dimensionality.csv`: none. `classes.csv`, sites
    pooled: `threshold`. `persistence.csv`, sites pooled: `threshold`, `class`, `sites_above`. `rotation.csv`, once for
    each pair of sites, the earlier as `model, step, hook`: `other_model, other_step, other_hook, class`. Features that
    are silent on all heldout rows are in none but the count `dead` of `classes.csv`.

    Args:
        dictionary: folder of the run, whose sites are several.
        features: its `features.parquet`.
        out: folder of the tables.

    Returns:
        Features that fire.

    Raises:
        UserError: a file is missing or damaged, the two are of different runs, or the run has one site.
    """
    identity, known = read_identity(dictionary), read_features(features)
    check_run(dictionary, features, identity, known)
    check_sites(dictionary, known)
    decoder = Decoder(dictionary, known)
    tables = {
        "classes": classes_table(identity, known),
        "persistence": persistence_table(identity, known),
        "rotation": rotation_table(identity, known, decoder),
        "dimensionality": dimensionality_table(identity, known, decoder),
    }
    for name, table in tables.items():
        write_csv(out / f"{name}.csv", table)
    return {"features": len(known.table)}


def check_run(dictionary: Path, file: Path, identity: RunIdentity, features: Features) -> None:
    """Refuse a table of another run."""
    sites = tuple(Site(**site) for site in json.loads((dictionary / CONFIG_FILE).read_text())["sites"])
    said = features.labels["dictionary"], features.labels["run"], features.sites, features.latents
    if said != (identity.dictionary, identity.run, sites, identity.latents):
        raise UserError(f"{file}: it is not of the run in {dictionary}; run the rule 'features' again")


def check_sites(dictionary: Path, features: Features) -> None:
    """Refuse a run with one site."""
    if len(features.sites) == 1:
        raise UserError(f"{dictionary}: the run has one site; geometry compares the sites of a run, expected several")


def classes_table(identity: RunIdentity, features: Features) -> pd.DataFrame:
    """Count the features of every class at every tau (metric: the class), and once, without tau, the dead ones."""
    tables = [metrics_table(identity, [Measurement(None, "dead", features.dead, features.rows)])]
    for tau in sorted({*SWEEP, features.threshold}):
        counts = class_counts(features.norms, tau)
        measured = [Measurement(None, name, count, features.rows) for name, count in counts.items()]
        tables.append(metrics_table(identity, measured).assign(threshold=tau))
    return pd.concat(tables, ignore_index=True)


def persistence_table(identity: RunIdentity, features: Features) -> pd.DataFrame:
    """Count the features of both classes that are above the study's tau at n sites (metric `features`)."""
    tables = []
    for name in GROUPS[1:]:
        of_class = (features.table["class"] == name).to_numpy()
        counts = persistence_counts(features.norms[of_class], features.threshold)
        for sites in range(1, len(features.sites) + 1):
            measured = [Measurement(None, "features", int(counts[sites]), features.rows)]
            more = {"threshold": features.threshold, "class": name, "sites_above": sites}
            tables.append(metrics_table(identity, measured).assign(**more))
    return pd.concat(tables, ignore_index=True)


def rotation_table(identity: RunIdentity, features: Features, decoder: Decoder) -> pd.DataFrame:
    """Average the cosine of decoders over features for all pairs of sites and each of `GROUPS`.

    Metrics are `cosine` and its `cosine_standard_error` over features, and `features`, those with a decoder at both
    sites; where these are none, or one for the error, the number is empty.
    """
    sums = RotationSums(len(GROUPS), decoder.sites)
    members_GL = torch.zeros(len(GROUPS), len(decoder.alive), dtype=torch.bool)
    for group, name in enumerate(GROUPS):
        chosen = features.table.loc[(features.table["class"] == name) | (name == "all"), "feature"]
        members_GL[group, chosen.tolist()] = True
    for block, W_BSD in progress(
        decoder.over_sites(), len(decoder.alive), "latents", lambda part: part[0].stop - part[0].start
    ):
        sums.add(W_BSD, members_GL[:, block][:, decoder.alive[block]])
    found = {"cosine": sums.cosine(), "cosine_standard_error": sums.standard_error(), "features": sums.features}
    tables = []
    for group, name in enumerate(GROUPS):
        for place, other in enumerate(features.sites):
            measured = [
                Measurement(site, metric, float(values[group, earlier, place]), features.rows)
                for earlier, site in enumerate(features.sites[:place])
                for metric, values in found.items()
            ]
            more = {f"other_{field}": value for field, value in other._asdict().items()} | {"class": name}
            tables += [metrics_table(identity, measured).assign(**more)] * bool(measured)
    return pd.concat(tables, ignore_index=True)


def dimensionality_table(identity: RunIdentity, features: Features, decoder: Decoder) -> pd.DataFrame:
    """Sum the dimensionality of features at every site, over d_model (metric `feature_dimensionality`)."""
    places = progress(range(decoder.sites), decoder.sites, "sites")
    totals = [total_dimensionality(partial(decoder.at_site, place), decoder.d_model) for place in places]
    measured = [
        Measurement(site, "feature_dimensionality", total / decoder.d_model, features.rows)
        for site, total in zip(features.sites, totals, strict=True)
    ]
    return metrics_table(identity, measured)
