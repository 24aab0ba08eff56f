"""How a crosscoder starts: encoder = decoder transposed, features aligned over sites or not, biases at 0."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ontogeny.activations.statistics import SiteStatistics
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.objective import Objective
from ontogeny.randomness import generator

COARSE_NORMS = tuple(float(norm) for norm in np.geomspace(0.02, 5.0, 17))
"""Decoder norms that a search tries first; between the neighbours of the best it tries eleven more."""


LATENTS_AT_A_TIME = 1024
"""Latents that are drawn as one piece, so that a process need not hold the draws of other processes' sites."""


def crosscoder_of_zeros(
    settings: RunSettings, d_model: int, statistics: Sequence[SiteStatistics], own: slice
) -> Crosscoder:
    """Make a crosscoder without weights that has the scales and centers of its sites.

    Args:
        settings: the run.
        d_model: D.
        statistics: statistics of all sites of the run, in order.
        own: the sites that it is to have.
    """
    recipe = settings.nonlinearity, settings.gate, settings.k, settings.pre_bias
    crosscoder = Crosscoder(settings.sites[own], d_model, settings.latents, *recipe)
    for number, site in enumerate(statistics[own]):
        if settings.center:
            crosscoder.centers[number] = torch.from_numpy(site.mean)
        crosscoder.scales[number] = d_model**0.5 / (site.centered_norm if settings.center else site.mean_norm)
    return crosscoder


def unit_decoder(settings: RunSettings, d_model: int, own: slice = slice(None)) -> Tensor:
    """Draw directions that are uniform on the sphere, of norm 1 at every site.

    Args:
        settings: the run; `tied` gives all sites one draw, of which a smaller dictionary has the beginning;
            `independent` gives a draw to each site, but for shared latents, and over one site to each size.
        d_model: D.
        own: the sites that are wanted; they get the same directions whatever the others are.

    Returns:
        (shape: [L, S, D]), S the sites that are wanted.
    """
    tied, sites = settings.initialisation == "tied", len(settings.sites)
    own_draw = (settings.latents,) if sites == 1 and not tied else ()
    random = generator(settings.seed, "initialisation", *own_draw)
    pieces = []
    for first in range(0, settings.latents, LATENTS_AT_A_TIME):
        shape = min(LATENTS_AT_A_TIME, settings.latents - first), 1 if tied else sites, d_model
        draw = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
        draw[: max(settings.shared_latents - first, 0)] = draw[: max(settings.shared_latents - first, 0), :1]
        pieces.append(functional.normalize(draw if tied else draw[:, own], dim=-1))
    unit_LSD = torch.cat(pieces)
    return unit_LSD.expand(-1, len(range(*own.indices(sites))), -1).contiguous()


@torch.no_grad()
def initialise(objective: Objective, settings: RunSettings, x_BSD: Tensor) -> None:
    """Give a crosscoder its first weights and thresholds.

    Args:
        objective: the crosscoder and its thresholds.
        settings: the run. Decoder norm `search` takes the norm that reconstructs `x_BSD` best; a decoder of unit norm
            over all sites together leaves no choice.
        x_BSD: scaled activations of the first batch (shape: [B, S, D]).
    """
    crosscoder = objective.crosscoder
    if objective.log_threshold_L is not None:
        objective.log_threshold_L.fill_(np.log(settings.threshold))
        crosscoder.thresholds().copy_(objective.log_threshold_L.exp())
    own = objective.ranks.own_sites(len(settings.sites))
    unit_LSD = unit_decoder(settings, crosscoder.d_model, own).to(crosscoder.W_dec)
    if settings.decoder == "unit":
        _set_decoder(objective, unit_LSD, len(settings.sites) ** -0.5)
    elif settings.decoder_norm == "search":
        _set_decoder(objective, unit_LSD, searched_norm(objective, unit_LSD, x_BSD))
    else:
        _set_decoder(objective, unit_LSD, settings.decoder_norm)


def searched_norm(objective: Objective, unit_LSD: Tensor, x_BSD: Tensor) -> float:
    """Find the decoder norm of the smallest reconstruction error on a batch, the encoder being the decoder transposed.

    Args:
        objective: the crosscoder, whose weights are overwritten.
        unit_LSD: directions of the decoder (shape: [L, S, D]).
        x_BSD: scaled activations (shape: [B, S, D]).
    """

    def error(norm: float) -> float:
        _set_decoder(objective, unit_LSD, norm)
        terms = objective(x_BSD, 0.0, torch.empty(0, dtype=torch.int64))
        return float(objective.ranks.total(terms.reconstruction))

    best = int(np.argmin([error(norm) for norm in COARSE_NORMS]))
    low, high = COARSE_NORMS[max(best - 1, 0)], COARSE_NORMS[min(best + 1, len(COARSE_NORMS) - 1)]
    return min((float(norm) for norm in np.linspace(low, high, 11)), key=error)


def _set_decoder(objective: Objective, unit_LSD: Tensor, norm: float) -> None:
    objective.crosscoder.W_dec.copy_(unit_LSD * norm)
    objective.crosscoder.W_enc_LSD.copy_(objective.crosscoder.W_dec)
