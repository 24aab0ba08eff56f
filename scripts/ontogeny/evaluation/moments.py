"""Sums of products over rows, from which probes and latent scales of many features follow at once.

Shapes: B rows, S sites, D channels, L features that are probed. All sums are in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments:
    """Sums over rows of a split, added block by block."""

    def __init__(self, sites: int, d_model: int, features: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.rows = 0
        self.firings_L = torch.zeros(features, dtype=torch.int64, device=device)
        self.x_SD, self.f_L, self.ff_L = zeros(sites, d_model), zeros(features), zeros(features)
        self.xx_SDD, self.xf_SDL = zeros(sites, d_model, d_model), zeros(sites, d_model, features)
        self.error_SD, self.ef_SDL = zeros(sites, d_model), zeros(sites, d_model, features)
        self.here_SL, self.own_SL = zeros(sites, features), zeros(sites, features)

    def add(self, x_BSD: Tensor, error_BSD: Tensor, f: Tensor) -> None:
        """Add rows.

        Args:
            x_BSD: scaled activations, less a constant of the site where that keeps them small (shape: [B, S, D]).
            error_BSD: scaled activations less their reconstruction (shape: [B, S, D]).
            f: feature activations (shape: [B, L]), or (shape: [B, S, L]) under gate `site`.
        """
        f_BL = shared(f)
        self.rows += len(f)
        self.firings_L += (f_BL > 0).sum(0)
        self.x_SD += x_BSD.sum(0)
        self.f_L += f_BL.sum(0)
        self.ff_L += f_BL.square().sum(0)
        self.error_SD += error_BSD.sum(0)
        self.here_SL += f.sum(0)
        self.own_SL += (f_BL * f).sum(0) if f.ndim == 2 else (f_BL[:, None] * f).sum(0)
        x_SDB = x_BSD.permute(1, 2, 0)
        self.xx_SDD += x_SDB @ x_SDB.mT
        for total_SDL, part_BSD in ((self.xf_SDL, x_BSD), (self.ef_SDL, error_BSD)):
            total_SDL += (part_BSD.flatten(1).T @ f_BL).view_as(total_SDL)

    def about(self, mean_SD: Tensor, mean_L: Tensor) -> "Centred":
        """Take the sums of products about these means of activations and of features."""
        n = self.rows
        x_SD, f_L = self.x_SD - n * mean_SD, self.f_L - n * mean_L
        return Centred(
            self.xx_SDD - _outer(self.x_SD, mean_SD) - _outer(mean_SD, x_SD),
            self.xf_SDL - _outer(self.x_SD, mean_L) - _outer(mean_SD, f_L),
            self.ff_L - self.f_L * mean_L - mean_L * f_L,
        )


class Centred(NamedTuple):
    """Sums of products about means."""

    xx_SDD: Tensor
    xf_SDL: Tensor
    ff_L: Tensor


def shared(f: Tensor) -> Tensor:
    """Make one activation a row of a feature (shape: [B, L]): under gate `site` that of its most active site."""
    return f if f.ndim == 2 else f.amax(1)


def probe_r2(train: Moments, heldout: Moments, ridge: float) -> Tensor:
    """Measure how well a linear probe of each site reads each feature: R^2 on heldout rows.

    The probe is the ridge regression of f_i on x_s with an intercept, fitted on the training rows:
    w = (C + ridge tr(C)/D 1)^-1 c, with C = sum (x - mean)(x - mean)^T and c = sum (x - mean)(f - mean), one Cholesky
    factor a site for all features. R^2 = 1 - sum (f - prediction)^2 / sum (f - mean)^2, the mean being that of the
    heldout rows: 1 where a feature can be read from the site, 0 and less where it is not there.

    Returns:
        (shape: [S, L]), not-a-number for features that are constant on heldout rows.
    """
    mean_SD, mean_L = train.x_SD / train.rows, train.f_L / train.rows
    fitted = train.about(mean_SD, mean_L)
    width = mean_SD.shape[1]
    penalty_S = ridge * fitted.xx_SDD.diagonal(dim1=1, dim2=2).mean(1)
    regular_SDD = fitted.xx_SDD + penalty_S[:, None, None] * torch.eye(
        width, dtype=torch.float64, device=mean_SD.device
    )
    w_SDL = torch.cholesky_solve(fitted.xf_SDL, torch.linalg.cholesky(regular_SDD))
    seen = heldout.about(mean_SD, mean_L)
    error_SL = seen.ff_L - 2 * (w_SDL * seen.xf_SDL).sum(1) + (w_SDL * (seen.xx_SDD @ w_SDL)).sum(1)
    return 1 - error_SL / (heldout.ff_L - heldout.f_L.square() / heldout.rows)


def latent_scale(train: Moments, heldout: Moments, W_dec_LSD: Tensor) -> Tensor:
    """Measure with what norm a decoder would write each feature at each site if nothing made it smaller.

    Latent scaling (Minder et al. 2025, arXiv 2504.02922): beta = sum f_i <d, y> / (||d||^2 sum f_i^2), over rows,
    minimises sum ||y - beta f_i d||^2, where y is the residual with the feature's own share added back, y = x_s -
    x_hat_s + f_i W_dec[i, s]. Two things differ. They take for d the decoder of the model that has the feature, since
    both models share a basis. Checkpoints turn their features, so here d has norm 1 and is the direction of the best
    decoder of all on the training rows, and beta is taken on heldout rows, so that a feature which is not there has a
    beta around 0 and not that of noise. And f_i is taken about its mean, which is a regression with an intercept:
    activations are never below 0, so that what is missing of other features, or of the bias, would count for this one.

    Args:
        train: rows that give the directions.
        heldout: rows that give the scales.
        W_dec_LSD: decoders of the features that are probed, on scaled activations (shape: [L, S, D]).

    Returns:
        beta, in units of decoder norms (shape: [S, L]), not-a-number for features that are silent on either split.
    """
    direction_SDL = torch.nn.functional.normalize(_best_decoder(train, W_dec_LSD), dim=1)
    return (direction_SDL * _best_decoder(heldout, W_dec_LSD)).sum(1)


def _best_decoder(moments: Moments, W_dec_LSD: Tensor) -> Tensor:
    """Compute sum (f_i - mean) y / sum (f_i - mean)^2 (shape: [S, D, L]): least squares with all others as they are."""
    mean_L = moments.f_L / moments.rows
    own_SL = moments.own_SL - mean_L * moments.here_SL
    error_SDL = moments.ef_SDL - _outer(moments.error_SD, mean_L)
    return (error_SDL + W_dec_LSD.permute(1, 2, 0).double() * own_SL[:, None]) / (moments.ff_L - mean_L * moments.f_L)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Take outer products of the last axes, (..., D) and (..., E), to (..., D, E)."""
    return a[..., :, None] * b[..., None, :]
