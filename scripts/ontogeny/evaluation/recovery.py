"""The table of what a dictionary has found of a planted model, hook by hook."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ontogeny.activations.planted_features import read_directions
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.activity import activity
from ontogeny.evaluation.emergence import normalised_norms
from ontogeny.evaluation.encoding import load_dictionary, sites_of_model
from ontogeny.evaluation.tables import Measurement, metrics_table, read_identity
from ontogeny.evaluation.truth import find_planted, lifetimes, mean_max_cosine_similarity, rotations
from ontogeny.files import write_csv


def write_recovery(
    dictionary: Path,
    model: str,
    directions: Path,
    activations: Path,
    shards: Sequence[str],
    threshold: float,
    out: Path,
) -> dict[str, float]:
    """Compare a run with what was planted in one of its models, and write it as a tidy table.

    Each hook has rows of its own, since features point elsewhere at every hook; the sites of a hook are one axis of
    time and are compared together, so that `step` is empty.

    Args:
        dictionary: folder of the run.
        model: the planted model.
        directions: folder of its planted directions, one file a hook.
        activations: folder of the shards of all sites.
        shards: names of the heldout shards; latents that are silent on all their rows have found nothing.
        threshold: tau (see `ontogeny.evaluation.emergence`).
        out: the CSV file.

    Returns:
        Heldout rows that were encoded.

    Raises:
        UserError: the model is not the dictionary's, or directions or a shard are missing or damaged.
    """
    identity, crosscoder = read_identity(dictionary), load_dictionary(dictionary)
    hooks = dict.fromkeys(site.hook for site in sites_of_model(crosscoder, model, dictionary))
    counts = activity(crosscoder, activations, shards)
    firing_L = (counts.count_L > 0).numpy()
    decoder_LSD, scales_S = crosscoder.W_dec.cpu().numpy(), crosscoder.scales.cpu().numpy()
    there_LS = normalised_norms(np.linalg.norm(decoder_LSD, axis=2)) > threshold
    tables = []
    for hook in hooks:
        places, planted_GSD = planted_at_sites(crosscoder, model, hook, directions / f"{hook}.safetensors")
        kept_L = firing_L & there_LS[:, places].any(axis=1)
        found = recovery(decoder_LSD[kept_L][:, places], planted_GSD, scales_S[places], threshold)
        measured = [Measurement(None, name, value, counts.rows) for name, value in found.items()]
        tables.append(metrics_table(identity, measured).assign(model=model, hook=hook))
    write_csv(out, pd.concat(tables, ignore_index=True))
    return {"rows": float(counts.rows)}


def recovery(
    learnt_LSD: NDArray[np.float32], planted_GSD: NDArray[np.float32], scales_S: NDArray[np.float32], threshold: float
) -> dict[str, float]:
    """Measure how much of what was planted at a hook is found, and how well.

    Args:
        learnt_LSD: decoders of the latents that fire and are there, sites in the order of their steps.
        planted_GSD: planted directions at these sites in raw units; features that are at none of them are left out.
        scales_S: a_s of each site.
        threshold: tau.

    Returns:
        `recovered_features`, the share of planted features whose cosine with a latent is above 0.9; `mmcs_planted` and
        `mmcs_learnt`, the mean over planted features and over latents of the highest cosine. Of recovered features,
        `emergence_exact` and `death_exact`, the shares that are dated to the very checkpoint; of recovered features
        that turn, `rotation_error` and `rotation_error_largest`, the mean and the largest difference of the angle in
        degrees. What is a mean over nothing is left out.
    """
    planted_GSD = planted_GSD[planted_GSD.any(axis=(1, 2))]
    if not len(learnt_LSD) or not len(planted_GSD):
        return {"recovered_features": 0.0} if len(planted_GSD) else {}
    scaled_GSD = planted_GSD * scales_S[:, None]
    found = find_planted(learnt_LSD, scaled_GSD, threshold)
    recovered_G = found.recovered()
    of_planted, of_learnt = mean_max_cosine_similarity(learnt_LSD, scaled_GSD)
    measured = {
        "recovered_features": float(recovered_G.mean()),
        "mmcs_planted": of_planted,
        "mmcs_learnt": of_learnt,
    }
    truth = lifetimes(np.linalg.norm(planted_GSD, axis=2), threshold)
    angle_G = rotations(planted_GSD, truth)
    turning_G = recovered_G & (angle_G > 0)
    error_G = np.abs(found.angle - angle_G)
    if recovered_G.any():
        measured["emergence_exact"] = float((found.lifetimes.emergence == truth.emergence)[recovered_G].mean())
        measured["death_exact"] = float((found.lifetimes.death == truth.death)[recovered_G].mean())
    if turning_G.any():
        measured["rotation_error"] = float(error_G[turning_G].mean())
        measured["rotation_error_largest"] = float(error_G[turning_G].max())
    return measured


def planted_at_sites(
    crosscoder: Crosscoder, model: str, hook: str, path: Path
) -> tuple[list[int], NDArray[np.float32]]:
    """Find the sites of a hook in the order of their steps, and what was planted there (shape: [G, sites, D]).

    Raises:
        UserError: the directions are damaged, or are not of these checkpoints.
    """
    steps, directions_GSD = read_directions(path)
    sites = sorted((site.step, place) for place, site in enumerate(crosscoder.sites) if site[::2] == (model, hook))
    missing = [step for step, _ in sites if step not in steps]
    if missing or directions_GSD.shape[2] != crosscoder.d_model:
        raise UserError(
            f"{path}: it holds {directions_GSD.shape[2]} channels at steps {', '.join(map(str, steps))}, but the "
            f"dictionary has {crosscoder.d_model} at step {(missing or steps)[0]}; make it again"
        )
    return [place for _, place in sites], directions_GSD[:, [steps.index(step) for step, _ in sites]]
