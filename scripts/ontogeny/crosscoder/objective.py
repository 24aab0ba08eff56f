"""What a training step minimises: the crosscoder's forward pass in training, and the sum of its loss terms."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ontogeny.config.dictionaries import Recipe
from ontogeny.crosscoder.loss import auxk, mean_activity, squared_error, tanh_quad
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.nonlinearity import Gate, batch_topk, jumprelu, topk
from ontogeny.crosscoder.site_gate import decode_gated, gated_activity


class Terms(NamedTuple):
    """The loss of a batch, what it is the sum of, and what the rest of the step needs."""

    loss: Tensor
    """Sum of the three terms (scalar)."""
    reconstruction: Tensor
    """Squared error in scaled units, summed over sites and channels, mean over rows (scalar)."""
    sparsity: Tensor
    """Penalty times its coefficient (scalar)."""
    auxiliary: Tensor
    """Auxiliary loss of dead latents times its coefficient (scalar)."""
    reconstruction_BSD: Tensor
    """x_hat, in scaled units."""
    h_BL: Tensor
    """Pre-activations."""
    norms_LS: Tensor
    """Decoder norms."""
    f_BL: Tensor | None
    """The code, where all sites share one."""
    least_kept: Tensor | None
    """Smallest h n that `batchtopk` kept (shape: [1])."""


class _Decoded(NamedTuple):
    reconstruction_BSD: Tensor
    activity_L: Tensor | None
    f_BL: Tensor | None
    least_kept: Tensor | None


@dataclass(frozen=True)
class Objective:
    """The loss of a crosscoder on a batch of scaled activations."""

    crosscoder: Crosscoder
    recipe: Recipe
    log_threshold_L: Tensor | None
    """Logarithm of the thresholds of `jumprelu`, a parameter; `crosscoder.threshold` holds their values."""

    def __call__(self, x_BSD: Tensor, coefficient: float, dead_N: Tensor) -> Terms:
        """Compute the loss.

        Args:
            x_BSD: scaled activations (shape: [B, S, D]).
            coefficient: what the penalty is multiplied by at this step.
            dead_N: numbers of the latents that count as dead (shape: [N]), for `auxk`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.recipe.penalty != "none"):
            norms_LS = self.crosscoder.decoder_norms()
        h_BL = self.crosscoder.pre_activations(x_BSD, self.precision)
        decoded = self._gate_site(h_BL, norms_LS) if self.recipe.gate == "site" else self._gate_shared(h_BL, norms_LS)
        reconstruction = squared_error(decoded.reconstruction_BSD, x_BSD)
        sparsity = coefficient * self._penalty(decoded.activity_L, reconstruction)
        auxiliary = torch.zeros_like(reconstruction)
        if len(dead_N):
            error_BSD = x_BSD - decoded.reconstruction_BSD.detach()
            auxiliary = self.recipe.dead.coefficient * self._auxiliary(h_BL, norms_LS, error_BSD, dead_N)
        return Terms(
            reconstruction + sparsity + auxiliary,
            reconstruction.detach(),
            sparsity.detach(),
            auxiliary.detach(),
            decoded.reconstruction_BSD.detach(),
            h_BL.detach(),
            norms_LS.detach(),
            None if decoded.f_BL is None else decoded.f_BL.detach(),
            decoded.least_kept,
        )

    @property
    def precision(self) -> torch.dtype:
        """Type of the factors in matrix products."""
        return torch.bfloat16 if self.recipe.precision == "bfloat16" else torch.float32

    def _gate_shared(self, h_BL: Tensor, norms_LS: Tensor) -> _Decoded:
        norms_L, least_kept = norms_LS.sum(1), None
        if self.recipe.nonlinearity == "relu":
            f_BL = h_BL.relu()
        elif self.recipe.nonlinearity == "topk":
            f_BL = topk(h_BL, norms_L, self.crosscoder.kept_a_row())
        elif self.recipe.nonlinearity == "batchtopk":
            f_BL, least_kept = batch_topk(h_BL, norms_L, self.crosscoder.kept_a_row())
        else:
            f_BL = jumprelu(h_BL, norms_L, self._gate())
        activity_L = None if self.recipe.penalty == "none" else mean_activity(f_BL, norms_L, self._tanh_scale())
        return _Decoded(self.crosscoder.reconstruct(f_BL, self.precision), activity_L, f_BL, least_kept)

    def _gate_site(self, h_BL: Tensor, norms_LS: Tensor) -> _Decoded:
        gate = self._gate()
        decoded_BSD = decode_gated(h_BL, self.crosscoder.W_dec, norms_LS, gate, self.precision)
        activity_L = None
        if self.recipe.penalty != "none":
            activity_L = gated_activity(h_BL, norms_LS, gate, self._tanh_scale())
        return _Decoded(decoded_BSD + self.crosscoder.b_dec, activity_L, None, None)

    def _penalty(self, activity_L: Tensor | None, like: Tensor) -> Tensor:
        if activity_L is None:
            return torch.zeros_like(like)
        if self.recipe.penalty == "tanh_quad":
            return tanh_quad(activity_L, self.recipe.frequency_scale)
        return activity_L.sum()

    def _auxiliary(self, h_BL: Tensor, norms_LS: Tensor, error_BSD: Tensor, dead_N: Tensor) -> Tensor:
        return auxk(
            h_BL.index_select(1, dead_N),
            self.crosscoder.W_dec.index_select(0, dead_N),
            norms_LS.index_select(0, dead_N).sum(1),
            error_BSD,
            self.recipe.dead.k,
            self.precision,
        )

    def _gate(self) -> Gate:
        if self.log_threshold_L is None:
            raise ValueError("jumprelu needs log_threshold_L")
        return Gate(self.crosscoder.thresholds(), self.log_threshold_L, self.recipe.bandwidth)

    def _tanh_scale(self) -> float | None:
        return None if self.recipe.penalty == "l1" else self.recipe.tanh_scale
