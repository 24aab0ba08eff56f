"""When a feature forms, from the norms of its decoder over sites.

Where sites are checkpoints of one model at one hook, in order, a site's index is a time. Over layers, or over two
models, the same numbers speak of the order of the site axis and of nothing else.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASSES = {
    "always-on": "initialisation",
    "returning": "initialisation",
    "fading": "initialisation",
    "lasting": "emergent",
    "transient": "emergent",
}
"""The five classes of features that exist, and of which of the two classes of the paper each is a part.

An *initialisation* feature is above tau at the first site, an *emergent* one is not. Of the first, those above tau at
every site are always-on, the others returning or fading as they are above tau at the last site or not; of the second,
those above tau at the last site are lasting, the others transient. So each feature is in exactly one class.
"""

ABSENT = -1
"""Index of a site that does not exist: latents whose decoder is zero everywhere never peak nor emerge."""


class Emergence(NamedTuple):
    """What the norms say of each latent."""

    normalised: NDArray[np.float64]
    """Norm at each site over its maximum over sites, (L, S); 0 for latents without a decoder."""
    peak: NDArray[np.int64]
    """Index of the site with the largest norm, the first of equals, (L,)."""
    first: NDArray[np.int64]
    """Index of the first site with a normalised norm above tau, (L,)."""
    initialisation: NDArray[np.bool_]
    """Whether the normalised norm at the first site of all is above tau, (L,); `emergent` features are the others."""
    persistence: NDArray[np.float64]
    """Share of sites with a normalised norm above tau, (L,)."""


def normalised_norms(norms_LS: NDArray[np.floating]) -> NDArray[np.float64]:
    """Divide decoder norms by their maximum over sites; latents whose norms are all 0 stay at 0, (L, S)."""
    most_L1 = norms_LS.max(axis=1, keepdims=True)
    normalised_LS = np.zeros(norms_LS.shape)
    np.divide(norms_LS, most_L1, out=normalised_LS, where=most_L1 > 0)
    return normalised_LS


def emergence(norms_LS: NDArray[np.floating], threshold: float) -> Emergence:
    """Find when features form.

    Args:
        norms_LS: decoder norms on scaled activations, (L, S), sites in order.
        threshold: tau, above 0 and below 1, so that a feature is above it at its peak at the latest.
    """
    normalised_LS = normalised_norms(norms_LS)
    above_LS = normalised_LS > threshold
    exists_L = above_LS.any(axis=1)
    return Emergence(
        normalised_LS,
        np.where(exists_L, normalised_LS.argmax(axis=1), ABSENT),
        np.where(exists_L, above_LS.argmax(axis=1), ABSENT),
        above_LS[:, 0],
        above_LS.mean(axis=1),
    )


def feature_classes(normalised_LS: NDArray[np.floating], threshold: float) -> NDArray[np.str_]:
    """Put each feature into one of `CLASSES`.

    Args:
        normalised_LS: norms over their maximum, of features that have a decoder (shape: [L, S]).
        threshold: tau, above 0 and below 1.

    Returns:
        Names of classes (shape: [L]).
    """
    above_LS = normalised_LS > threshold
    first_L, last_L = above_LS[:, 0], above_LS[:, -1]
    at_start_L = np.where(above_LS.all(axis=1), "always-on", np.where(last_L, "returning", "fading"))
    return np.where(first_L, at_start_L, np.where(last_L, "lasting", "transient"))
