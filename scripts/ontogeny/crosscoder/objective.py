"""What a training step minimises: the crosscoder's forward pass in training, and the sum of its loss terms."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ontogeny.config.dictionaries import Recipe
from ontogeny.crosscoder.active import Active, active_entries
from ontogeny.crosscoder.loss import activity_count, auxk, mean_activity, squared_error, tanh_quad
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.nonlinearity import Gate, firing_above, jumprelu, largest, largest_of_batch
from ontogeny.crosscoder.products import with_gradient
from ontogeny.crosscoder.site_gate import decode_gated, gated_activity
from ontogeny.crosscoder.sparse_code import Rule, Weights, decode_active

SPARSE_BELOW = {
    ("cpu", torch.float32): 0.2,
    ("cpu", torch.bfloat16): 0.08,
    ("cuda", torch.float32): 0.006,
    ("cuda", torch.bfloat16): 0.006,
}
"""Share of entries that fire below which going over them alone is faster than dense products, by device and precision.
"""


class Terms(NamedTuple):
    """The loss of a batch, what it is the sum of, and what the rest of the step needs."""

    loss: Tensor
    """Sum of the three terms (scalar)."""
    reconstruction: Tensor
    """Squared error in scaled units, summed over channels, summed or averaged over sites, mean over rows (scalar)."""
    sparsity: Tensor
    """Penalty times its coefficient (scalar)."""
    auxiliary: Tensor
    """Auxiliary loss of dead latents times its coefficient (scalar)."""
    error_BSD: Tensor
    """x_hat - x, in scaled units."""
    h_BL: Tensor
    """Pre-activations."""
    norms_LS: Tensor
    """Decoder norms."""
    f_BL: Tensor | None
    """The code, where it was computed densely and all sites share one."""
    active: Active | None
    """The entries that fire at some site, where the code was not computed densely."""
    least_kept: Tensor | None
    """Smallest h n that `batchtopk` kept (shape: [1])."""


class _Decoded(NamedTuple):
    reconstruction_BSD: Tensor
    activity_L: Tensor | None
    f_BL: Tensor | None
    active: Active | None


@dataclass(frozen=True)
class Objective:
    """The loss of a crosscoder on a batch of scaled activations."""

    crosscoder: Crosscoder
    recipe: Recipe
    log_threshold_L: Tensor | None
    """Logarithm of the thresholds of `jumprelu`, a parameter; `crosscoder.threshold` holds their values."""
    sparse: bool | None = None
    """Whether to decode over the entries that fire alone; None leaves it to how many do."""

    def __call__(self, x_BSD: Tensor, coefficient: float, dead_N: Tensor) -> Terms:
        """Compute the loss.

        Args:
            x_BSD: scaled activations (shape: [B, S, D]).
            coefficient: what the penalty is multiplied by at this step.
            dead_N: numbers of the latents that count as dead (shape: [N]), for `auxk`.
        """
        with torch.no_grad():
            norms_LS = self.crosscoder.decoder_norms()
            h_BL = self.crosscoder.pre_activations(x_BSD, self.precision)
            firing_BL, least_kept = self._firing(h_BL, norms_LS)
        decoded = self._decode(x_BSD, h_BL, norms_LS, firing_BL)
        error_BSD = decoded.reconstruction_BSD - x_BSD
        reconstruction = squared_error(error_BSD) * self._site_weight
        sparsity = coefficient * self._penalty(decoded.activity_L, reconstruction)
        auxiliary = torch.zeros_like(reconstruction)
        if len(dead_N):
            auxiliary = self.recipe.dead.coefficient * self._auxiliary(x_BSD, h_BL, norms_LS, -error_BSD, dead_N)
        return Terms(
            reconstruction + sparsity + auxiliary,
            reconstruction.detach(),
            sparsity.detach(),
            auxiliary.detach(),
            error_BSD.detach(),
            h_BL,
            norms_LS,
            None if decoded.f_BL is None else decoded.f_BL.detach(),
            decoded.active,
            least_kept,
        )

    def row_losses(self, x_BSD: Tensor, coefficient: float) -> Tensor:
        """Compute the loss of each row alone: squared error, and penalty as far as it is a sum over rows.

        Args:
            x_BSD: scaled activations (shape: [B, S, D]).
            coefficient: what the penalty is multiplied by.

        Returns:
            (shape: [B]). The quadratic part of `tanh_quad` belongs to a batch and not to a row; it is left out.
        """
        terms = self(x_BSD, 0.0, x_BSD.new_empty(0, dtype=torch.int64))
        loss_B = terms.error_BSD.square().sum((1, 2)) * self._site_weight
        if self.recipe.penalty == "none":
            return loss_B
        norms_LG = terms.norms_LS if self.recipe.gate == "site" else terms.norms_LS.sum(1, keepdim=True)
        for norms_L in norms_LG.T:
            z_BL = self._code(terms, norms_L) * norms_L
            added_B = z_BL.sum(1) if self.recipe.penalty == "l1" else (z_BL * self.recipe.tanh_scale).tanh_().sum(1)
            loss_B += coefficient * added_B / activity_count(1, norms_LG.shape[1], self._tanh_scale())
        return loss_B

    def _code(self, terms: Terms, norms_L: Tensor) -> Tensor:
        """Return the dense code, of one site under gate `site` (shape: [B, L])."""
        if self.recipe.gate == "site":
            return firing_above(terms.h_BL, norms_L, self.crosscoder.thresholds())
        if terms.active is None:
            assert terms.f_BL is not None
            return terms.f_BL
        f_BL = torch.zeros_like(terms.h_BL)
        f_BL.view(-1)[terms.active.flat_N] = terms.h_BL.view(-1)[terms.active.flat_N]
        return f_BL

    @property
    def precision(self) -> torch.dtype:
        """Type of the factors in matrix products."""
        return torch.bfloat16 if self.recipe.precision == "bfloat16" else torch.float32

    def _firing(self, h_BL: Tensor, norms_LS: Tensor) -> tuple[Tensor, Tensor | None]:
        """Say which latents fire (at some site), and the smallest h n that `batchtopk` kept."""
        if self.recipe.nonlinearity == "relu":
            return h_BL > 0, None
        if self.recipe.gate == "site":
            return h_BL * norms_LS.amax(1) > self.crosscoder.thresholds(), None
        score_BL = h_BL * norms_LS.sum(1)
        if self.recipe.nonlinearity == "topk":
            return largest(score_BL, self.crosscoder.kept_a_row()), None
        if self.recipe.nonlinearity == "batchtopk":
            return largest_of_batch(score_BL, self.crosscoder.kept_a_row())
        return score_BL > self.crosscoder.thresholds(), None

    def _decode(self, x_BSD: Tensor, h_BL: Tensor, norms_LS: Tensor, firing_BL: Tensor) -> _Decoded:
        """Decode over the entries that fire if they are few, else densely."""
        worthwhile = SPARSE_BELOW[h_BL.device.type, self.precision] * firing_BL.numel()
        if self.sparse if self.sparse is not None else int(firing_BL.count_nonzero()) < worthwhile:
            return self._decode_sparse(x_BSD, h_BL, norms_LS, active_entries(firing_BL))
        h_BL = with_gradient(h_BL, x_BSD.flatten(1), self.W_enc_LM, self.crosscoder.encoder_bias(), self.precision)
        if self.recipe.penalty != "none":
            norms_LS = self.crosscoder.decoder_norms()
        if self.recipe.gate == "site":
            return self._decode_by_site(h_BL, norms_LS)
        norms_L = norms_LS.sum(1)
        if self.recipe.nonlinearity == "jumprelu":
            f_BL = jumprelu(h_BL, norms_L, self._gate())
        else:
            f_BL = torch.where(firing_BL, h_BL, 0.0)
        activity_L = None if self.recipe.penalty == "none" else mean_activity(f_BL, norms_L, self._tanh_scale())
        return _Decoded(self.crosscoder.reconstruct(f_BL, self.precision), activity_L, f_BL, None)

    def _decode_sparse(self, x_BSD: Tensor, h_BL: Tensor, norms_LS: Tensor, active: Active) -> _Decoded:
        crosscoder = self.crosscoder
        weights = Weights(crosscoder.W_enc_LSD, crosscoder.encoder_bias(), crosscoder.W_dec, crosscoder.b_dec)
        gate = self._gate() if self.recipe.nonlinearity == "jumprelu" else None
        tanh_scale = self._tanh_scale()
        rule = Rule(active, self.recipe.gate == "site", gate, tanh_scale, self.precision)
        decoded = decode_active(x_BSD, h_BL, norms_LS, weights, rule)
        activity_L = None if self.recipe.penalty == "none" else decoded.activity_L
        return _Decoded(decoded.reconstruction_BSD, activity_L, None, active)

    def _decode_by_site(self, h_BL: Tensor, norms_LS: Tensor) -> _Decoded:
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

    def _auxiliary(self, x_BSD: Tensor, h_BL: Tensor, norms_LS: Tensor, error_BSD: Tensor, dead_N: Tensor) -> Tensor:
        W_enc_NM = self.W_enc_LM.index_select(0, dead_N)
        b_enc_N = self.crosscoder.encoder_bias().index_select(0, dead_N)
        h_BN = with_gradient(h_BL.index_select(1, dead_N), x_BSD.flatten(1), W_enc_NM, b_enc_N, self.precision)
        return self._site_weight * auxk(
            h_BN,
            self.crosscoder.W_dec.index_select(0, dead_N),
            norms_LS.index_select(0, dead_N).sum(1),
            error_BSD,
            self.recipe.dead.k,
            self.precision,
        )

    @property
    def W_enc_LM(self) -> Tensor:
        """The encoder, latent by latent (shape: [L, S D])."""
        return self.crosscoder.W_enc_LSD.flatten(1)

    @property
    def _site_weight(self) -> float:
        """What an error summed over sites is multiplied by."""
        return 1 / len(self.crosscoder.sites) if self.recipe.site_error == "mean" else 1.0

    def _gate(self) -> Gate:
        if self.log_threshold_L is None:
            raise ValueError("jumprelu needs log_threshold_L")
        return Gate(self.crosscoder.thresholds(), self.log_threshold_L, self.recipe.bandwidth)

    def _tanh_scale(self) -> float | None:
        return None if self.recipe.penalty == "l1" else self.recipe.tanh_scale
