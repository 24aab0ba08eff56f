"""One training step: loss, gradient, parameters, counters."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ontogeny.activations.statistics import SiteStatistics
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.gathering import SITE_AXES, gather
from ontogeny.crosscoder.initialisation import crosscoder_of_zeros, initialise
from ontogeny.crosscoder.loss import squared_error
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.nonlinearity import firing_above
from ontogeny.crosscoder.objective import Objective, Terms
from ontogeny.crosscoder.optimisation import (
    FusedAdam,
    project_out,
    restore_unit_norm,
    share_gradients,
    tie_sites,
    whole_norm,
)
from ontogeny.crosscoder.parallel import ALONE, Ranks
from ontogeny.crosscoder.schedule import learning_rate_factor, sparsity_factor

THRESHOLD_MEMORY = 0.8
"""Decay, a step, of the running mean of the least h n that `batchtopk` kept: about the last five steps count. One batch
alone gives it to a few per cent, and a longer memory lags behind the weights."""

STEPS_BETWEEN_ROLL_CALLS = 8
"""Steps after which the list of dead latents is made anew, the one thing that a step waits for the device for."""


class Stepper:
    """The crosscoder of a run, its optimiser, and what is counted from step to step.

    Where several processes train the run, each has the crosscoder of its sites; S and B are then those of the process.

    Attributes:
        crosscoder: what is trained.
        alike: the parameters that all processes have.
        steps_done: optimiser steps so far.
        silent_L: rows since each latent fired (shape: [L]).
        dead_N: latents that count as dead for `auxk` (shape: [N]).
        first_faulty: the first step whose loss or gradient was not finite, -1 if none was (scalar). From that step on
            no parameter changes any more, so that it can be looked at later.
    """

    def __init__(
        self,
        settings: RunSettings,
        steps: int,
        d_model: int,
        statistics: Sequence[SiteStatistics],
        ranks: Ranks = ALONE,
    ) -> None:
        """Set up a run with weights of 0.

        Args:
            settings: the run.
            steps: steps of the whole run, for the schedules.
            d_model: D.
            statistics: statistics of all sites, in order.
            ranks: the processes that train the run.
        """
        self.settings, self.steps, self.steps_done, self.ranks = settings, steps, 0, ranks
        self.statistics, device = tuple(statistics), ranks.device
        own = ranks.own_sites(len(settings.sites))
        self.crosscoder = crosscoder_of_zeros(settings, d_model, statistics, own).to(device)
        mean_SD = torch.tensor(np.stack([site.mean for site in statistics[own]]), dtype=torch.float32, device=device)
        self.mean_SD = self.crosscoder.scaled(mean_SD)
        self.parameters = list(self.crosscoder.parameters())
        groups: list[dict[str, object]] = [{"params": self.parameters[:], "factor": 1.0}]
        self.log_threshold_L = None
        if settings.nonlinearity == "jumprelu":
            self.log_threshold_L = nn.Parameter(torch.zeros(settings.latents, device=device))
            self.parameters.append(self.log_threshold_L)
            groups.append({"params": [self.log_threshold_L], "factor": settings.threshold_learning_rate})
        self.alike = [parameter for parameter in (self.crosscoder.b_enc, self.log_threshold_L) if parameter is not None]
        self.objective = Objective(self.crosscoder, settings, self.log_threshold_L, ranks=ranks)
        self.optimiser = FusedAdam(groups, settings.betas)
        self.silent_L = torch.zeros(settings.latents, dtype=torch.int64, device=device)
        self.dead_N = torch.empty(0, dtype=torch.int64, device=device)
        self.first_faulty = torch.tensor(-1, device=device)

    def initialise(self, raw_BSD: Tensor) -> None:
        """Draw the first weights; `raw_BSD` is the first batch."""
        initialise(self.objective, self.settings, self._scaled(raw_BSD))

    def step(self, raw_BSD: Tensor, logged: bool) -> dict[str, float] | None:
        """Take one optimiser step.

        Args:
            raw_BSD: raw activations (shape: [B, S, D]).
            logged: whether to measure the batch, for which the step waits for the device.

        Returns:
            Columns of `training.csv`, of the whole batch before the parameters change; None if not `logged`.
        """
        x_BSD = self._scaled(raw_BSD)
        terms = self._differentiate(x_BSD)
        self._count(terms)
        measured = self._measure(terms, x_BSD) if logged else None
        self._descend(terms.loss.detach())
        self.steps_done += 1
        return measured

    @property
    def coefficient(self) -> float:
        """Sparsity coefficient of the next step."""
        warmup = sparsity_factor(self.steps_done, self.steps, self.settings.sparsity_warmup)
        return warmup * (self.settings.sparsity or 0.0)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        settings = self.settings
        factor = learning_rate_factor(
            self.steps_done, self.steps, settings.warmup, settings.decay, settings.final_learning_rate
        )
        return factor * settings.learning_rate

    @torch.no_grad()
    def row_losses(self, raw_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of each row, its squared error at all sites plus its share of an additive penalty.

        Args:
            raw_BSD: raw activations (shape: [B, S, D]); every data rank has the same rows.

        Returns:
            Losses (shape: [B]), and the scaled rows (shape: [B, S, D]).
        """
        x_BSD = self._scaled(raw_BSD)
        return self.objective.row_losses(x_BSD, self.coefficient), x_BSD

    @torch.no_grad()
    def firings(self, raw_BSD: Tensor) -> Tensor:
        """Count the rows on which each latent fires, at any site.

        Args:
            raw_BSD: raw activations (shape: [B, S, D]); every data rank has the same rows.

        Returns:
            Counts (shape: [L]).
        """
        terms = self.objective(self._scaled(raw_BSD), 0.0, self.dead_N[:0])
        if terms.active is not None:
            return terms.active.latent_starts.diff()
        fires_BL = terms.h_BL * terms.norms_L > self.crosscoder.thresholds() if terms.f_BL is None else terms.f_BL > 0
        return fires_BL.sum(0)

    def faulty_sites(self, raw_BSD: Tensor) -> list[str]:
        """Name the sites where a batch is not finite: in its activations, else its errors, else its gradients."""
        x_BSD = self._scaled(raw_BSD)
        terms = self._differentiate(x_BSD)
        sites = [site.key for site in self.settings.sites]
        totals_S = [x_BSD.sum((0, 2)), terms.error_BSD.sum((0, 2))]
        if self.crosscoder.W_dec.grad is not None:
            totals_S.append(self.crosscoder.W_dec.grad.sum((0, 2)))
        faulty = torch.zeros(len(totals_S), len(sites), dtype=torch.bool, device=x_BSD.device)
        faulty[:, self.ranks.own_sites(len(sites))] = ~torch.stack(totals_S).isfinite()
        for faulty_S in self.ranks.anywhere(faulty).tolist():
            if any(faulty_S):
                return [site for site, is_faulty in zip(sites, faulty_S, strict=True) if is_faulty]
        return sites

    def state(self) -> dict[str, Tensor]:
        """Collect every tensor that later steps depend on, those of other processes' sites left out."""
        tensors = {f"crosscoder.{name}": value for name, value in self.crosscoder.state_dict().items()}
        tensors |= {"silent_L": self.silent_L, "dead_N": self.dead_N}
        if self.log_threshold_L is not None:
            tensors["log_threshold_L"] = self.log_threshold_L
        for number, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state[parameter].items():
                tensors[f"adam.{number}.{name}"] = value
        return tensors

    def load_state(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned after `steps_done` steps."""
        self.steps_done = steps_done
        with torch.no_grad():
            for name, value in self.crosscoder.state_dict().items():
                value.copy_(tensors[f"crosscoder.{name}"])
            if self.log_threshold_L is not None:
                self.log_threshold_L.copy_(tensors["log_threshold_L"])
        self.silent_L, self.dead_N = (tensors[name].to(self.silent_L.device) for name in ("silent_L", "dead_N"))
        for number, parameter in enumerate(self.parameters):
            prefix = f"adam.{number}."
            self.optimiser.state[parameter] = {
                name.removeprefix(prefix): value.to(parameter.device, copy=True)
                for name, value in tensors.items()
                if name.startswith(prefix)
            }

    @property
    def site_axes(self) -> dict[str, int]:
        """Site axes of the tensors of a state, for those that have one."""
        axes = {f"crosscoder.{name}": axis for name, axis in SITE_AXES.items()}
        for number, (name, _) in enumerate(self.crosscoder.named_parameters()):
            if name in SITE_AXES:
                axes |= {f"adam.{number}.{moment}": SITE_AXES[name] for moment in ("exp_avg", "exp_avg_sq")}
        return axes

    def whole_crosscoder(self) -> Crosscoder | None:
        """Put the crosscoder of all sites together in host memory, on the first process; None on the others."""
        if self.ranks.world == 1:
            return self.crosscoder
        tensors = gather(self.crosscoder.state_dict(), SITE_AXES, len(self.settings.sites), self.ranks)
        if not self.ranks.first:
            return None
        whole = crosscoder_of_zeros(self.settings, self.crosscoder.d_model, self.statistics, slice(None))
        whole.load_state_dict(tensors)
        return whole

    def _scaled(self, raw_BSD: Tensor) -> Tensor:
        return self.crosscoder.scaled(raw_BSD.to(self.crosscoder.scales.device, non_blocking=True))

    def _differentiate(self, x_BSD: Tensor) -> Terms:
        terms = self.objective(x_BSD, self.coefficient, self.dead_N)
        self.optimiser.zero_grad()
        terms.loss.backward()  # type: ignore[no-untyped-call]
        return terms

    @torch.no_grad()
    def _count(self, terms: Terms) -> None:
        """Count how long latents have been silent, and follow the threshold of `batchtopk`."""
        if terms.active is not None:
            fired_L = terms.active.latent_starts.diff() > 0
        elif terms.f_BL is not None:
            fired_L = terms.f_BL.amax(0) > 0
        else:
            fired_L = terms.h_BL.amax(0) * terms.norms_L > self.crosscoder.thresholds()
        rows = len(terms.h_BL) * self.ranks.data_ranks
        self.silent_L = torch.where(self.ranks.any_over_data(fired_L), 0, self.silent_L + rows)
        if self.settings.dead.policy == "auxk" and (self.steps_done + 1) % STEPS_BETWEEN_ROLL_CALLS == 0:
            self.dead_N = (self.silent_L >= self.settings.dead.after_rows).nonzero().flatten()
        if terms.least_kept is not None:
            weight = (1 - THRESHOLD_MEMORY) / (1 - THRESHOLD_MEMORY ** (self.steps_done + 1))
            self.crosscoder.thresholds().lerp_(terms.least_kept, weight)

    @torch.no_grad()
    def _descend(self, loss: Tensor) -> None:
        """Change the parameters by their gradients, unless this step or one before it was faulty."""
        W_dec = self.crosscoder.W_dec
        share_gradients(self.parameters, self.alike, self.ranks)
        if self.settings.shared_latents and W_dec.grad is not None:
            tie_sites(W_dec.grad, self.settings.shared_latents, len(self.settings.sites), self.ranks)
        if self.settings.decoder == "unit" and W_dec.grad is not None:
            project_out(W_dec.grad, W_dec, self.ranks)
        norm, loss = whole_norm(self.parameters, self.alike, loss, self.ranks)
        faulty = ~(norm + loss).isfinite() & (self.first_faulty < 0)
        self.first_faulty = torch.where(faulty, self.steps_done, self.first_faulty)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * group["factor"]
        self.optimiser.step_clipped(norm, self.settings.gradient_clip, self.first_faulty >= 0)
        if self.settings.decoder == "unit":
            restore_unit_norm(W_dec, self.ranks)
        if self.log_threshold_L is not None:
            self.crosscoder.thresholds().copy_(self.log_threshold_L.exp())

    @torch.no_grad()
    def _measure(self, terms: Terms, x_BSD: Tensor) -> dict[str, float]:
        rows = len(x_BSD) * self.ranks.data_ranks
        spread = (x_BSD - self.mean_SD).square().sum() / len(x_BSD)
        sparsity = terms.sparsity if self.ranks.site == 0 else torch.zeros_like(terms.sparsity)
        shares = terms.reconstruction, sparsity, terms.auxiliary, squared_error(terms.error_BSD), spread
        reconstruction, sparsity, auxiliary, error, spread = self.ranks.total(torch.stack(shares))
        return {
            "step": self.steps_done + 1,
            "rows": (self.steps_done + 1) * rows,
            "loss": (reconstruction + sparsity + auxiliary).item(),
            "reconstruction": reconstruction.item(),
            "sparsity": sparsity.item(),
            "auxiliary": auxiliary.item(),
            "fvu": (error / spread).item(),
            "l0": self._mean_l0(terms),
            "dead": (self.silent_L >= self.settings.dead.after_rows).float().mean().item(),
            "learning_rate": self.learning_rate,
        }

    def _mean_l0(self, terms: Terms) -> float:
        """Count the latents that fire on a row, mean over rows, and over sites under gate `site`."""
        if terms.f_BL is not None:
            firing, parts = int(terms.f_BL.count_nonzero()), self.ranks.site_ranks
        elif terms.active is not None and self.settings.gate == "shared":
            firing, parts = len(terms.active.latent_N), self.ranks.site_ranks
        else:
            thresholds_L, parts = self.crosscoder.thresholds(), len(self.settings.sites)
            of_sites = (firing_above(terms.h_BL, norms_L, thresholds_L) for norms_L in terms.norms_LS.T)
            firing = sum(int(f_BL.count_nonzero()) for f_BL in of_sites)
        rows = len(terms.h_BL) * self.ranks.data_ranks
        return float(sum(self.ranks.everyones(firing)) / (parts * rows))
