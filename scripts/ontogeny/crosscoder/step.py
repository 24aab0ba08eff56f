"""One training step: loss, gradient, parameters, counters."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ontogeny.activations.statistics import SiteStatistics
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.initialisation import initialise
from ontogeny.crosscoder.loss import squared_error
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.crosscoder.nonlinearity import firing_above
from ontogeny.crosscoder.objective import Objective, Terms
from ontogeny.crosscoder.optimisation import FusedAdam, project_out, restore_unit_norm
from ontogeny.crosscoder.schedule import learning_rate_factor, sparsity_factor

THRESHOLD_MEMORY = 0.8
"""Decay, a step, of the running mean of the least h n that `batchtopk` kept: about the last five steps count. One batch
alone gives it to a few per cent, and a longer memory lags behind the weights."""

STEPS_BETWEEN_ROLL_CALLS = 8
"""Steps after which the list of dead latents is made anew, the one thing that a step waits for the device for."""


class Stepper:
    """The crosscoder of a run, its optimiser, and what is counted from step to step.

    Attributes:
        crosscoder: what is trained.
        steps_done: optimiser steps so far.
        silent_L: rows since each latent fired (shape: [L]).
        dead_N: latents that count as dead for `auxk` (shape: [N]).
        first_faulty: the first step whose loss or gradient was not finite, -1 if none was (scalar). From that step on
            no parameter changes any more, so that it can be looked at later.
    """

    def __init__(self, settings: RunSettings, steps: int, d_model: int, statistics: Sequence[SiteStatistics]) -> None:
        """Set up a run with weights of 0.

        Args:
            settings: the run.
            steps: steps of the whole run, for the schedules.
            d_model: D.
            statistics: statistics of the sites, in order.
        """
        self.settings, self.steps, self.steps_done = settings, steps, 0
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.crosscoder = _new_crosscoder(settings, d_model, statistics).to(device)
        mean_SD = torch.tensor(np.stack([site.mean for site in statistics]), dtype=torch.float32, device=device)
        self.mean_SD = self.crosscoder.scaled(mean_SD)
        self.parameters = list(self.crosscoder.parameters())
        groups: list[dict[str, object]] = [{"params": self.parameters[:], "factor": 1.0}]
        self.log_threshold_L = None
        if settings.nonlinearity == "jumprelu":
            self.log_threshold_L = nn.Parameter(torch.zeros(settings.latents, device=device))
            self.parameters.append(self.log_threshold_L)
            groups.append({"params": [self.log_threshold_L], "factor": settings.threshold_learning_rate})
        self.objective = Objective(self.crosscoder, settings, self.log_threshold_L)
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
            Columns of `training.csv`, of this batch before the parameters change; None if not `logged`.
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
        """Compute the loss of each row, its squared error plus its share of an additive penalty.

        Returns:
            Losses (shape: [B]), and the scaled rows (shape: [B, S, D]).
        """
        x_BSD = self._scaled(raw_BSD)
        return self.objective.row_losses(x_BSD, self.coefficient), x_BSD

    def faulty_sites(self, raw_BSD: Tensor) -> list[str]:
        """Name the sites where a batch is not finite: in its activations, else its errors, else its gradients."""
        x_BSD = self._scaled(raw_BSD)
        terms = self._differentiate(x_BSD)
        sites = [site.key for site in self.crosscoder.sites]
        totals_S = [x_BSD.sum((0, 2)), terms.error_BSD.sum((0, 2))]
        if self.crosscoder.W_dec.grad is not None:
            totals_S.append(self.crosscoder.W_dec.grad.sum((0, 2)))
        for total_S in totals_S:
            if not total_S.isfinite().all():
                return [site for site, finite in zip(sites, total_S.isfinite().tolist(), strict=True) if not finite]
        return sites

    def state(self) -> dict[str, Tensor]:
        """Collect every tensor that later steps depend on."""
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
            fired_L = terms.h_BL.amax(0) * terms.norms_LS.amax(1) > self.crosscoder.thresholds()
        self.silent_L = torch.where(fired_L, 0, self.silent_L + len(terms.h_BL))
        if self.settings.dead.policy == "auxk" and (self.steps_done + 1) % STEPS_BETWEEN_ROLL_CALLS == 0:
            self.dead_N = (self.silent_L >= self.settings.dead.after_rows).nonzero().flatten()
        if terms.least_kept is not None:
            weight = (1 - THRESHOLD_MEMORY) / (1 - THRESHOLD_MEMORY ** (self.steps_done + 1))
            self.crosscoder.thresholds().lerp_(terms.least_kept, weight)

    @torch.no_grad()
    def _descend(self, loss: Tensor) -> None:
        """Change the parameters by their gradients, unless this step or one before it was faulty."""
        W_dec = self.crosscoder.W_dec
        if self.settings.decoder == "unit" and W_dec.grad is not None:
            project_out(W_dec.grad, W_dec)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        faulty = ~(norm + loss).isfinite() & (self.first_faulty < 0)
        self.first_faulty = torch.where(faulty, self.steps_done, self.first_faulty)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * group["factor"]
        self.optimiser.step_clipped(norm, self.settings.gradient_clip, self.first_faulty >= 0)
        if self.settings.decoder == "unit":
            restore_unit_norm(W_dec)
        if self.log_threshold_L is not None:
            self.crosscoder.thresholds().copy_(self.log_threshold_L.exp())

    @torch.no_grad()
    def _measure(self, terms: Terms, x_BSD: Tensor) -> dict[str, float]:
        spread = (x_BSD - self.mean_SD).square().sum() / len(x_BSD)
        return {
            "step": self.steps_done + 1,
            "rows": (self.steps_done + 1) * len(x_BSD),
            "loss": terms.loss.item(),
            "reconstruction": terms.reconstruction.item(),
            "sparsity": terms.sparsity.item(),
            "auxiliary": terms.auxiliary.item(),
            "fvu": (squared_error(terms.error_BSD) / spread).item(),
            "l0": self._mean_l0(terms),
            "dead": (self.silent_L >= self.settings.dead.after_rows).float().mean().item(),
            "learning_rate": self.learning_rate,
        }

    def _mean_l0(self, terms: Terms) -> float:
        """Count the latents that fire on a row, mean over rows, and over sites under gate `site`."""
        if terms.f_BL is not None:
            return terms.f_BL.count_nonzero().item() / len(terms.h_BL)
        if terms.active is not None and self.settings.gate == "shared":
            return len(terms.active.latent_N) / len(terms.h_BL)
        firing = [
            firing_above(terms.h_BL, norms_L, self.crosscoder.thresholds()).count_nonzero().item()
            for norms_L in terms.norms_LS.T
        ]
        return sum(firing) / (len(firing) * len(terms.h_BL))


def _new_crosscoder(settings: RunSettings, d_model: int, statistics: Sequence[SiteStatistics]) -> Crosscoder:
    """Make a crosscoder of zeros with the scales and centers of its sites."""
    crosscoder = Crosscoder(
        settings.sites, d_model, settings.latents, settings.nonlinearity, settings.gate, settings.k, settings.pre_bias
    )
    for number, site in enumerate(statistics):
        if settings.center:
            crosscoder.centers[number] = torch.from_numpy(site.mean)
        crosscoder.scales[number] = d_model**0.5 / (site.centered_norm if settings.center else site.mean_norm)
    return crosscoder
