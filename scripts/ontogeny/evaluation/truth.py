"""How much of what was planted a dictionary has found.

Learnt decoders and planted directions are compared in the same units. On scaled activations those are a decoder as it
is saved and planted directions times a_s, the scale of their site; in raw units, a decoder over a_s and planted
directions as they are. A planted direction is 0 at the sites where its feature is absent.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.evaluation.emergence import ABSENT, emergence

Floating = NDArray[np.floating]
Doubles = NDArray[np.float64]

RECOVERED = 0.9
"""A planted feature is recovered where the cosine of a latent with it is above this."""


class Lifetimes(NamedTuple):
    """From which site to which a feature is there; sites are counted from 0."""

    emergence: NDArray[np.int64]
    """First site where it is there, `ABSENT` if there is none (shape: [L])."""
    death: NDArray[np.int64]
    """The site after the last one where it is there, S if that is the last of all, `ABSENT` if none (shape: [L])."""


class Found(NamedTuple):
    """The latent closest to each planted feature, and what its decoder says of the feature."""

    latent: NDArray[np.int64]
    """Number of the latent (shape: [G])."""
    cosine: Doubles
    """Its cosine with the feature, over all sites together (shape: [G])."""
    lifetimes: Lifetimes
    """When it is there, by its decoder norms (shape: [G] each)."""
    angle: Doubles
    """Degrees between its decoder at the first and at the last site where it is there (shape: [G])."""

    def recovered(self, least: float = RECOVERED) -> NDArray[np.bool_]:
        """Tell which features are recovered: their cosine is above `least` (shape: [G])."""
        return self.cosine > least


def cosines(learnt_LSD: Floating, planted_GSD: Floating) -> Doubles:
    """Take the cosine of every latent with every planted feature, the sites of each being one long vector.

    Args:
        learnt_LSD: learnt decoders (shape: [L, S, D]).
        planted_GSD: planted directions (shape: [G, S, D]).

    Returns:
        Cosines in float64, 0 for vectors of zeros (shape: [L, G]).
    """
    return np.asarray(
        _unit(learnt_LSD.reshape(len(learnt_LSD), -1)) @ _unit(planted_GSD.reshape(len(planted_GSD), -1)).T
    )


def mean_max_cosine_similarity(learnt_LSD: Floating, planted_GSD: Floating) -> tuple[float, float]:
    """Compute the MMCS of two dictionaries in both directions (Sharkey, Braun and Millidge 2022).

    Args:
        learnt_LSD: learnt decoders; leave out latents that never fire, they stand for nothing (shape: [L, S, D]).
        planted_GSD: planted directions (shape: [G, S, D]).

    Returns:
        The mean over planted features of the highest cosine with a latent, which says how much was found; and the mean
        over latents of the highest cosine with a planted feature, which says how little else was.
    """
    cosines_LG = cosines(learnt_LSD, planted_GSD)
    return float(cosines_LG.max(axis=0).mean()), float(cosines_LG.max(axis=1).mean())


def lifetimes(norms_LS: Floating, threshold: float) -> Lifetimes:
    """Read when features are there from the norms of their decoders.

    Args:
        norms_LS: decoder norms, or 1 and 0 for there and absent (shape: [L, S]).
        threshold: tau: a feature is there where its norm over its maximum is above it.
    """
    found = emergence(norms_LS, threshold)
    above_LS = found.normalised > threshold
    death_L = norms_LS.shape[1] - above_LS[:, ::-1].argmax(axis=1)
    return Lifetimes(found.first, np.where(found.first == ABSENT, ABSENT, death_L))


def rotations(decoder_LSD: Floating, lived: Lifetimes) -> Doubles:
    """Measure the angle between the first and the last decoder of each feature.

    Args:
        decoder_LSD: decoders (shape: [L, S, D]).
        lived: from `lifetimes`.

    Returns:
        Degrees from 0 to 180; not-a-number for features that are nowhere (shape: [L]).
    """
    number_L = np.arange(len(decoder_LSD))
    first_LD, last_LD = (_unit(decoder_LSD[number_L, site]) for site in (lived.emergence, lived.death - 1))
    # Twice the arc tangent of |a - b| / |a + b| keeps its digits where the arc cosine loses half of them, near 0.
    apart_L, along_L = (np.linalg.norm(difference, axis=1) for difference in (first_LD - last_LD, first_LD + last_LD))
    degrees_L = np.degrees(2 * np.arctan2(apart_L, along_L))
    return np.where(lived.emergence == ABSENT, np.nan, degrees_L)


def find_planted(learnt_LSD: Floating, planted_GSD: Floating, threshold: float) -> Found:
    """Find each planted feature among the latents: the latent with the highest cosine over all sites together.

    What was planted reads the same way: `lifetimes` of 1 and 0 for there and absent, and `rotations` of the directions.

    Args:
        learnt_LSD: learnt decoders (shape: [L, S, D]).
        planted_GSD: planted directions at the same sites (shape: [G, S, D]).
        threshold: tau (see `lifetimes`).
    """
    cosines_LG = cosines(learnt_LSD, planted_GSD)
    latent_G = cosines_LG.argmax(axis=0)
    chosen_GSD = learnt_LSD[latent_G]
    lived = lifetimes(np.linalg.norm(chosen_GSD, axis=2), threshold)
    return Found(latent_G, cosines_LG.max(axis=0), lived, rotations(chosen_GSD, lived))


def _unit(vectors_ND: Floating) -> Doubles:
    """Divide vectors by their norms, in float64; vectors of zeros stay."""
    norms_N1 = np.linalg.norm(vectors_ND.astype(np.float64), axis=1, keepdims=True)
    unit_ND = np.zeros(vectors_ND.shape)
    np.divide(vectors_ND, norms_N1, out=unit_ND, where=norms_N1 > 0)
    return unit_ND
