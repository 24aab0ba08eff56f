"""What a training step minimises: the crosscoder's forward pass in training, and the sum of its loss terms.

Where several processes train a run, each has some of the sites, and perhaps some of the rows. What concerns all sites
has the same bits on all processes that share rows: h, the norms that it is ranked by, which entries fire, activity.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.active import Active, active_entries
from ontogeny.crosscoder.loss import activity_count, auxk, mean_activity, squared_error, tanh_quad
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.nonlinearity import (
    Gate,
    firing_above,
    jumprelu,
    kth_largest,
    largest,
    largest_of_batch,
    not_below,
)
from ontogeny.crosscoder.parallel import ALONE, Ranks
from ontogeny.crosscoder.products import product, with_gradient
from ontogeny.crosscoder.rule import Rule
from ontogeny.crosscoder.site_gate import Activity, decode_gated
from ontogeny.crosscoder.sparse_code import Weights, decode_active

SPARSE_BELOW = {
    ("cpu", torch.float32): 0.16,
    ("cpu", torch.bfloat16): 0.12,
    ("cuda", torch.float32): 0.006,
    ("cuda", torch.bfloat16): 0.006,
}
"""Share of entries that fire below which going over them alone is faster than dense products, by device and precision.

Measured on a CPU of two cores; for CUDA it is what the bandwidth of memory and the matrix rate of an H200 let expect.
"""


class Terms(NamedTuple):
    """The loss of a batch, what it is the sum of, and what the rest of the step needs.

    Errors are those of the sites and rows of this process: `Ranks.total` of them is the whole.
    """

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
    norms_L: Tensor
    """What h is multiplied by to say whether a latent fires: sum over all sites, the largest under gate `site`."""
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
    recipe: RunSettings
    log_threshold_L: Tensor | None
    """Logarithm of the thresholds of `jumprelu`, a parameter; `crosscoder.threshold` holds their values."""
    sparse: bool | None = None
    """Whether to decode over the entries that fire alone; None leaves it to how many do."""
    ranks: Ranks = ALONE
    """The processes, each of which has a crosscoder of some of the sites of the recipe."""

    def __call__(self, x_BSD: Tensor, coefficient: float, dead_N: Tensor) -> Terms:
        """Compute the loss.

        Args:
            x_BSD: scaled activations (shape: [B, S, D]).
            coefficient: what the penalty is multiplied by at this step.
            dead_N: numbers of the latents that count as dead (shape: [N]), for `auxk`.
        """
        with torch.no_grad():
            norms_LS = self.crosscoder.decoder_norms()
            norms_L = self._norms_to_fire_by(norms_LS)
            h_BL = self._pre_activations(x_BSD)
            firing_BL, least_kept = self._firing(h_BL, norms_L)
        decoded = self._decode(x_BSD, h_BL, norms_LS, norms_L, firing_BL)
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
            norms_L,
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
        if not self.by_site:
            self.ranks.sum_over_sites(loss_B)
        norms_LG = terms.norms_LS if self.by_site else terms.norms_L[:, None]
        for norms_L in norms_LG.T if self.recipe.penalty != "none" else ():
            z_BL = self._code(terms, norms_L) * norms_L
            added_B = z_BL.sum(1) if self.recipe.penalty == "l1" else (z_BL * self.recipe.tanh_scale).tanh_().sum(1)
            parts = self.sites if self.by_site else 1
            loss_B += coefficient * added_B / activity_count(1, parts, self._tanh_scale())
        return self.ranks.sum_over_sites(loss_B) if self.by_site else loss_B

    def _code(self, terms: Terms, norms_L: Tensor) -> Tensor:
        """Return the dense code, of one site under gate `site` (shape: [B, L])."""
        if self.by_site:
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

    def _pre_activations(self, x_BSD: Tensor) -> Tensor:
        """Sum the shares of all sites; the encoder bias comes from one process, so that h has the same bits on all."""
        h_BL = product(x_BSD.flatten(1), self.W_enc_LM.T, self.precision)
        bias_L = self.crosscoder.encoder_bias()
        h_BL.add_(bias_L if self.ranks.site == 0 else bias_L - self.crosscoder.b_enc)
        return self.ranks.sum_over_sites(h_BL)

    def _norms_to_fire_by(self, norms_LS: Tensor) -> Tensor:
        if self.by_site:
            return self.ranks.max_over_sites(norms_LS.amax(1))
        return self.ranks.sum_over_sites(norms_LS.sum(1))

    def _firing(self, h_BL: Tensor, norms_L: Tensor) -> tuple[Tensor, Tensor | None]:
        """Say which latents fire (at some site), and the smallest h n that `batchtopk` kept."""
        if self.recipe.nonlinearity == "relu":
            return h_BL > 0, None
        score_BL = h_BL * norms_L
        if self.recipe.nonlinearity == "topk":
            return largest(score_BL, self.crosscoder.kept_a_row()), None
        if self.recipe.nonlinearity == "batchtopk":
            return self._largest_of_batch(score_BL, self.crosscoder.kept_a_row())
        return score_BL > self.crosscoder.thresholds(), None

    def _largest_of_batch(self, score_BL: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Mark the k B largest scores of the rows of all data ranks: they are among the k B largest of each."""
        if self.ranks.data_ranks == 1:
            return largest_of_batch(score_BL, k)
        kept = k * len(score_BL) * self.ranks.data_ranks
        upper = score_BL.flatten().topk(min(kept, score_BL.numel()), sorted=False).values
        least = kth_largest(self.ranks.gathered_over_data(upper), kept).clamp_min(0.0)
        return not_below(score_BL, least), least

    def _decode(self, x_BSD: Tensor, h_BL: Tensor, norms_LS: Tensor, norms_L: Tensor, firing_BL: Tensor) -> _Decoded:
        """Decode over the entries that fire if they are few, else densely."""
        worthwhile = SPARSE_BELOW[h_BL.device.type, self.precision] * firing_BL.numel()
        if self.sparse if self.sparse is not None else int(firing_BL.count_nonzero()) < worthwhile:
            return self._decode_sparse(x_BSD, h_BL, norms_LS, norms_L, active_entries(firing_BL))
        h_BL = with_gradient(h_BL, x_BSD.flatten(1), self.W_enc_LM, self.crosscoder.encoder_bias(), self.precision)
        if self.recipe.penalty != "none":
            norms_LS = self.crosscoder.decoder_norms()
        if self.by_site:
            return self._decode_by_site(h_BL, norms_LS)
        if self.recipe.penalty != "none":
            norms_L = self.ranks.summed_over_sites(norms_LS.sum(1))
        if self.recipe.nonlinearity == "jumprelu":
            f_BL = jumprelu(h_BL, norms_L, self._gate())
        else:
            f_BL = torch.where(firing_BL, h_BL, 0.0)
        activity_L = None if self.recipe.penalty == "none" else mean_activity(f_BL, norms_L, self._tanh_scale())
        # The penalty's gradient for f is whole on every process, the reconstruction's is that of its sites.
        reconstruction_BSD = self.crosscoder.reconstruct(self.ranks.shared_by_sites(f_BL), self.precision)
        return _Decoded(reconstruction_BSD, activity_L, f_BL, None)

    def _decode_sparse(
        self, x_BSD: Tensor, h_BL: Tensor, norms_LS: Tensor, norms_L: Tensor, active: Active
    ) -> _Decoded:
        crosscoder = self.crosscoder
        weights = Weights(crosscoder.W_enc_LSD, crosscoder.encoder_bias(), crosscoder.W_dec, crosscoder.b_dec)
        gate = self._gate() if self.recipe.nonlinearity == "jumprelu" else None
        tanh_scale = self._tanh_scale()
        penalised = self.recipe.penalty != "none"
        rule = Rule(active, self.by_site, gate, penalised, tanh_scale, self.precision, self.sites, self.ranks)
        norms_LG = norms_LS if self.by_site else norms_L[:, None]
        decoded = decode_active(x_BSD, h_BL, norms_LS, norms_LG, weights, rule)
        activity_L = None if self.recipe.penalty == "none" else decoded.activity_L
        return _Decoded(decoded.reconstruction_BSD, activity_L, None, active)

    def _decode_by_site(self, h_BL: Tensor, norms_LS: Tensor) -> _Decoded:
        gate, h_BL = self._gate(), self.ranks.shared_by_sites(h_BL)
        gate = gate._replace(log_threshold_L=self.ranks.shared_by_sites(gate.log_threshold_L))
        activity = Activity(self.recipe.penalty != "none", self._tanh_scale())
        decoded = decode_gated(h_BL, self.crosscoder.W_dec, norms_LS, gate, activity, self.precision)
        activity_L = None
        if activity.wanted:
            own, every = (activity_count(1, sites, activity.tanh_scale) for sites in (norms_LS.shape[1], self.sites))
            activity_L = decoded.activity_L if own == every else decoded.activity_L * (own / every)
            activity_L = self.ranks.summed_over_sites(activity_L)
        return _Decoded(decoded.decoded_BSD + self.crosscoder.b_dec, activity_L, None, None)

    def _penalty(self, activity_L: Tensor | None, like: Tensor) -> Tensor:
        if activity_L is None:
            return torch.zeros_like(like)
        if self.recipe.shared_latents:
            price_L = torch.ones_like(activity_L)
            price_L[: self.recipe.shared_latents] = self.recipe.shared.sparsity
            activity_L = activity_L * price_L
        if self.recipe.penalty == "tanh_quad":
            return tanh_quad(self.ranks.averaged_over_data(activity_L), self.recipe.frequency_scale)
        return activity_L.sum()

    def _auxiliary(self, x_BSD: Tensor, h_BL: Tensor, norms_LS: Tensor, error_BSD: Tensor, dead_N: Tensor) -> Tensor:
        W_enc_NM = self.W_enc_LM.index_select(0, dead_N)
        b_enc_N = self.crosscoder.encoder_bias().index_select(0, dead_N)
        h_BN = with_gradient(h_BL.index_select(1, dead_N), x_BSD.flatten(1), W_enc_NM, b_enc_N, self.precision)
        return self._site_weight * auxk(
            self.ranks.shared_by_sites(h_BN),
            self.crosscoder.W_dec.index_select(0, dead_N),
            self.ranks.sum_over_sites(norms_LS.index_select(0, dead_N).sum(1)),
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
        return 1 / self.sites if self.recipe.site_error == "mean" else 1.0

    @property
    def sites(self) -> int:
        """Sites of all processes together."""
        return len(self.recipe.sites)

    @property
    def by_site(self) -> bool:
        """Whether a latent fires at some sites and not at others."""
        return self.recipe.gate == "site"

    def _gate(self) -> Gate:
        if self.log_threshold_L is None:
            raise ValueError("jumprelu needs log_threshold_L")
        return Gate(self.crosscoder.thresholds(), self.log_threshold_L, self.recipe.bandwidth)

    def _tanh_scale(self) -> float | None:
        return None if self.recipe.penalty == "l1" else self.recipe.tanh_scale
