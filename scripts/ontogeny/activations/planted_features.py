"""Planted features: what they are, when they are there and where they point, known beforehand."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ontogeny.config.models import PlantedModel
from ontogeny.errors import UserError
from ontogeny.files import atomic, write_csv
from ontogeny.provenance import provenance
from ontogeny.randomness import generator

Doubles = NDArray[np.float64]

KINDS = ("initial", "emergent", "dying", "rotating")
"""Kinds of features: there from first to last, from a later checkpoint on, up to one, and there but turning."""


class PlantedFeatures(NamedTuple):
    """What is known of every feature, whatever the hook; checkpoints are counted from 0 in the order of their steps."""

    kind: NDArray[np.str_]
    """One of `KINDS` (shape: [G])."""
    probability: Doubles
    """Share of the rows on which it is active (shape: [G])."""
    emergence: NDArray[np.int64]
    """First checkpoint at which it is there (shape: [G])."""
    death: NDArray[np.int64]
    """First checkpoint at which it is there no more, the number of checkpoints where it never dies (shape: [G])."""
    angle: Doubles
    """Degrees between its first and its last direction (shape: [G])."""

    def alive(self, checkpoints: int) -> NDArray[np.bool_]:
        """Tell at which checkpoints each feature is there (shape: [G, checkpoints])."""
        number_S = np.arange(checkpoints)
        return (self.emergence[:, None] <= number_S) & (number_S < self.death[:, None])


def planted_features(settings: PlantedModel) -> PlantedFeatures:
    """Lay down the features of a planted model.

    Feature i is active with probability p_i = active decay^i / sum_j decay^j. Kinds are dealt out at random, so that
    each has frequent and rare features; emergence and death are spread evenly over the checkpoints after the first.
    """
    features, checkpoints = settings.features, len(settings.checkpoints)
    kind = np.full(features, KINDS[0], dtype="<U8")
    emergence, death = np.zeros(features, np.int64), np.full(features, checkpoints)
    order = generator(settings.seed, "kinds").permutation(features)
    ends = np.rint(features * np.cumsum((settings.emergent, settings.dying, settings.rotating))).astype(int)
    for name, chosen in zip(KINDS[1:], np.split(order, ends)[:3], strict=True):
        kind[chosen] = name
        later = 1 + np.arange(len(chosen)) % max(checkpoints - 1, 1)
        if name == "emergent":
            emergence[chosen] = later
        if name == "dying":
            death[chosen] = later
    weight = settings.decay ** np.arange(features, dtype=np.float64)
    angle = np.where(kind == "rotating", float(settings.rotation), 0.0)
    return PlantedFeatures(kind, settings.active * weight / weight.sum(), emergence, death, angle)


def planted_directions(settings: PlantedModel, hook: str) -> Doubles:
    """Point the features of a planted model at every checkpoint of a hook.

    A feature that turns goes from u towards a v at right angles to it: cos(t) u + sin(t) v, with t growing evenly from
    checkpoint to checkpoint. Hooks have directions of their own; features are the same at all of them.

    Args:
        settings: the model.
        hook: hook point.

    Returns:
        Directions of norm 1, and 0 where a feature is absent (shape: [G, checkpoints, d_model]).
    """
    features = planted_features(settings)
    u_GD, v_GD = generator(settings.seed, "directions", hook).standard_normal((2, settings.features, settings.d_model))
    u_GD /= np.linalg.norm(u_GD, axis=1, keepdims=True)
    v_GD -= np.einsum("gd,gd->g", u_GD, v_GD)[:, None] * u_GD
    v_GD /= np.linalg.norm(v_GD, axis=1, keepdims=True)
    turned_S = np.linspace(0, 1, len(settings.checkpoints))
    t_GS1 = np.radians(features.angle)[:, None, None] * turned_S[:, None]
    directions_GSD = np.cos(t_GS1) * u_GD[:, None] + np.sin(t_GS1) * v_GD[:, None]
    return np.asarray(directions_GSD * features.alive(len(turned_S))[:, :, None])


def truth_table(settings: PlantedModel) -> pd.DataFrame:
    """Lay out what is known of the features of a planted model.

    Returns:
        One row a feature: `feature`, `kind`, `probability`, `emergence_step`, `death_step` (the first step without it,
        empty where it never dies) and `angle` (degrees from its first to its last direction).
    """
    features, steps = planted_features(settings), pd.array([*settings.checkpoints, None], dtype="Int64")
    return pd.DataFrame(
        {
            "feature": np.arange(settings.features),
            "kind": features.kind,
            "probability": features.probability,
            "emergence_step": steps[features.emergence],
            "death_step": steps[features.death],
            "angle": features.angle,
        }
    )


def write_truth(settings: PlantedModel, out: Path) -> dict[str, float]:
    """Write what is known of the features of a planted model as a CSV table (see `truth_table`).

    Returns:
        Counts for the cost line: features.

    Raises:
        UserError: the disk is full.
    """
    write_csv(out, truth_table(settings))
    return {"features": float(settings.features)}


def write_directions(settings: PlantedModel, hook: str, out: Path, study: Path | None) -> dict[str, float]:
    """Write where the features of a planted model point at a hook, in raw units.

    The file is safetensors with the float32 tensor `directions` (shape: [G, checkpoints, d_model]), 0 where a feature
    is absent; `ontogeny` in its metadata is JSON with `hook`, the `steps` of the checkpoints, and what made the file.

    Args:
        settings: the model.
        hook: hook point.
        out: `models/<model>/directions/<hook>.safetensors`.
        study: the study's `study.json`, or None.

    Returns:
        Counts for the cost line: features.

    Raises:
        UserError: the disk is full.
    """
    directions_GSD = planted_directions(settings, hook).astype(np.float32)
    made = {"hook": hook, "steps": list(settings.checkpoints), **provenance(study)}
    with atomic(out) as temporary:
        save_file({"directions": directions_GSD}, temporary, metadata={"ontogeny": json.dumps(made, sort_keys=True)})
    return {"features": float(settings.features)}


def read_directions(path: Path) -> tuple[tuple[int, ...], NDArray[np.float32]]:
    """Read what `write_directions` wrote.

    Returns:
        Steps of the checkpoints, and directions in raw units (shape: [G, checkpoints, d_model]).

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            steps = tuple(json.loads(file.metadata()["ontogeny"])["steps"])
            return steps, file.get_tensor("directions")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: these are no planted directions ({error}); make them again by truth.py") from None
