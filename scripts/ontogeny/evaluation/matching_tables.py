"""The features of a run beside those of another, as tables: who is who, and whether both date them alike."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ontogeny.errors import UserError
from ontogeny.evaluation.activity import activity
from ontogeny.evaluation.agreement import (
    ALL,
    BOTH,
    EITHER,
    EMERGENT,
    Counts,
    Estimate,
    bootstrap,
    contingency,
    equal,
    equal_by_chance,
    permutation_p,
    spearman,
    within,
)
from ontogeny.evaluation.emergence import ABSENT, emergence
from ontogeny.evaluation.encoding import load_dictionary
from ontogeny.evaluation.feature_table import read_features
from ontogeny.evaluation.geometry_tables import Decoder, check_run, check_sites
from ontogeny.evaluation.matching import mutual_matches
from ontogeny.evaluation.tables import RunIdentity, read_identity
from ontogeny.files import write_csv
from ontogeny.randomness import generator
from ontogeny.sites import Site

PAIRS = (
    *("feature", "other_feature", "cosine", "matched"),
    *("emergence_step", "other_emergence_step", "shared_step", "other_shared_step"),
)
"""Columns of `pairs.csv`."""


class Side(NamedTuple):
    """One of two runs: its features that fire and have a decoder, sites in the order of their steps."""

    identity: RunIdentity
    """What the run is."""
    features: NDArray[np.int64]
    """Numbers of the features (shape: [L])."""
    decoder: NDArray[np.float32]
    """Their decoders on scaled activations (shape: [L, S, D])."""
    sites: tuple[Site, ...]
    """Sites, checkpoints of one model at one hook."""
    emergence: NDArray[np.int64]
    """Step at which each emerges, among the run's own checkpoints (shape: [L])."""

    def at(self, sites: Sequence[Site]) -> NDArray[np.float32]:
        """Take the decoders at some of the sites."""
        return self.decoder[:, [self.sites.index(site) for site in sites]]


def side(
    identity: RunIdentity,
    features: NDArray[np.int64],
    decoder_LSD: NDArray[np.float32],
    sites: Sequence[Site],
    tau: float,
) -> Side:
    """Describe a run by its features that fire; those without a decoder are left out.

    Args:
        identity: what the run is.
        features: numbers of the features (shape: [L]).
        decoder_LSD: their decoders on scaled activations (shape: [L, S, D]).
        sites: the site axis.
        tau: a feature emerges at the first checkpoint where its norm over its maximum over sites is above it.
    """
    order = sorted(range(len(sites)), key=lambda place: sites[place].step)
    steps_S = np.array([sites[place].step for place in order])
    decoder_LSD = decoder_LSD[:, order]
    first_L = emergence(np.linalg.norm(decoder_LSD, axis=2), tau).first
    there = first_L != ABSENT
    return Side(
        identity, features[there], decoder_LSD[there], tuple(sites[place] for place in order), steps_S[first_L[there]]
    )


def write_matching(
    dictionary: Path, features: Path, other: Path, activations: Path, shards: Sequence[str], cosine: float, out: Path
) -> dict[str, float]:
    """Match the features of two runs and write `pairs.csv` and `agreement.csv`.

    Args:
        dictionary: folder of the reference.
        features: its `features.parquet`.
        other: folder of the run that is compared with it.
        activations: folder of the shards of all sites.
        shards: names of the heldout shards; features of the other run that are silent on all their rows are left out,
            as are those of the reference that its table calls dead.
        cosine: features whose cosine is above this are the same.
        out: folder of the tables.

    Returns:
        Heldout rows that were encoded, and features that were matched.

    Raises:
        UserError: a file is missing or damaged, or the two runs have no two sites in common.
    """
    identity, known = read_identity(dictionary), read_features(features)
    check_run(dictionary, features, identity, known)
    check_sites(dictionary, known)
    decoder_LSD = np.concatenate([block.numpy() for _, block in Decoder(dictionary, known).over_sites()])
    numbers = known.table["feature"].to_numpy(np.int64)
    reference = side(identity, numbers, decoder_LSD, known.sites, known.threshold)
    crosscoder = load_dictionary(other)
    counts = activity(crosscoder, activations, shards)
    firing = np.flatnonzero(counts.count_L.numpy())
    compared = side(
        read_identity(other), firing, crosscoder.W_dec.cpu().numpy()[firing], crosscoder.sites, known.threshold
    )
    shared = [site for site in reference.sites if site in compared.sites]
    if len(shared) < 2:
        raise UserError(f"{other}: it has {len(shared)} of the sites of {dictionary}; dates are compared over several")
    pairs = matched_pairs(reference, compared, shared, cosine)
    write_csv(out / "pairs.csv", pairs)
    write_csv(out / "agreement.csv", agreement_table(reference, compared, shared, pairs).assign(rows=counts.rows))
    return {"rows": float(counts.rows), "matched": float(pairs["matched"].sum())}


def first_shared(steps_L: NDArray[np.int64], shared: Sequence[Site]) -> NDArray[np.int64]:
    """Place each step on the shared checkpoints: the first at or after it, or their number where there is none."""
    return np.searchsorted([site.step for site in shared], steps_L, side="left")


def matched_pairs(reference: Side, other: Side, shared: Sequence[Site], cosine: float) -> pd.DataFrame:
    """List features that are each other's best match, `matched` where their cosine is above `cosine`.

    `emergence_step` is read from a run's own checkpoints, `shared_step` is the first checkpoint of both runs at or
    after it; it is empty for features that emerge after the last of them.
    """
    matches = mutual_matches(reference.at(shared), other.at(shared))
    steps = pd.array([site.step for site in shared] + [pd.NA], dtype="Int64")
    ours_M, theirs_M = reference.emergence[matches.reference], other.emergence[matches.other]
    columns = (
        reference.features[matches.reference],
        other.features[matches.other],
        matches.cosine,
        matches.cosine > cosine,
        ours_M,
        theirs_M,
        steps[first_shared(ours_M, shared)],
        steps[first_shared(theirs_M, shared)],
    )
    return pd.DataFrame(dict(zip(PAIRS, columns, strict=True)))


def agreement_table(reference: Side, other: Side, shared: Sequence[Site], pairs: pd.DataFrame) -> pd.DataFrame:
    """Say how many features are matched, and how well the dates of those agree.

    Returns:
        Columns `dictionary, run, other, other_run, checkpoints` (the steps of those shared) and `group, metric, value,
        low, high, features`; `features` says how many the value is over, `low` and `high` bound a 95 % bootstrap
        interval.
    """
    matched = pairs[pairs["matched"]]
    dated = matched.dropna(subset=["shared_step", "other_shared_step"])
    late = reference.emergence > shared[0].step
    of_late = int(late[np.isin(reference.features, matched["feature"])].sum())
    rows = [
        (ALL, "matched_share", *_share(len(matched), len(reference.features))),
        (ALL, "other_matched_share", *_share(len(matched), len(other.features))),
        (EMERGENT, "matched_share", *_share(of_late, int(late.sum()))),
        (ALL, "after_the_last_step", *_share(len(matched) - len(dated), len(matched))),
    ]
    steps = [site.step for site in shared]
    ours_M, theirs_M = (dated[name].to_numpy(np.int64) for name in ("shared_step", "other_shared_step"))
    table_TT = contingency(np.searchsorted(steps, ours_M), np.searchsorted(steps, theirs_M), len(steps))
    either_TT, both_TT = table_TT.copy(), table_TT.copy()
    either_TT[0, 0], both_TT[0], both_TT[:, 0] = 0, 0, 0
    for group, counts_TT in zip((ALL, EITHER, BOTH), (table_TT, either_TT, both_TT), strict=True):
        seed = generator(reference.identity.seed, "agreement", other.identity.dictionary, other.identity.run, group)
        rows += [(group, *row) for row in _agreement(group, counts_TT, seed)]
    table = pd.DataFrame(rows, columns=["group", "metric", "value", "low", "high", "features"])
    identity = {
        "dictionary": reference.identity.dictionary,
        "run": reference.identity.run,
        "other": other.identity.dictionary,
        "other_run": other.identity.run,
        "checkpoints": " ".join(str(site.step) for site in shared),
    }
    for place, (name, value) in enumerate(identity.items()):
        table.insert(place, name, value)
    return table


def _share(part: int, whole: int) -> tuple[float, float, float, int]:
    return part / whole if whole else np.nan, np.nan, np.nan, whole


def _agreement(group: str, table_TT: Counts, random: np.random.Generator) -> list[tuple[str, float, float, float, int]]:
    features = int(table_TT.sum())
    estimates = {
        "equal": bootstrap(table_TT, equal, random),
        "within_one": bootstrap(table_TT, partial(within, steps=1), random),
    }
    # What is late in either run alone was chosen by both dates, which makes them depend on each other.
    if group != EITHER:
        estimates["equal_by_chance"] = Estimate(equal_by_chance(table_TT), np.nan, np.nan)
        estimates["spearman"] = bootstrap(table_TT, spearman, random)
        estimates["permutation_p"] = Estimate(permutation_p(table_TT, random), np.nan, np.nan)
    return [(name, *estimate, features) for name, estimate in estimates.items()]
