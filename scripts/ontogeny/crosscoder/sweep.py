"""One training step of many small dictionaries side by side: the runs of a sweep on the same rows.

A small dictionary alone leaves a processor idle: it waits for the many small operations of a step. Here the runs share
each of them. Their arithmetic is that of `ontogeny.crosscoder.step` for `relu` with `l1`, which alone needs so little.
Passes over the code take as long as products where channels are few, so biases and penalties are one channel more in
the products: two passes are left, those of ReLU forward and backward.

Shapes, beyond those of the crosscoder: R runs, C runs of one size, M = S D channels of all sites, P = M + 1 channels
with one of ones, N latents of all runs, those of a run being L in a row.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ontogeny.activations.statistics import SiteStatistics
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.optimisation import FusedAdam, project_out, restore_unit_norm
from ontogeny.crosscoder.schedule import sparsity_factor
from ontogeny.crosscoder.step import Stepper


class Size(NamedTuple):
    """Runs of one dictionary size, which stand side by side."""

    runs: slice
    """Which they are of all runs."""
    latents: int
    """L, of each."""
    rows: slice
    """Where their latents stand among those of all runs."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many runs of how many latents, (C, L)."""
        return self.runs.stop - self.runs.start, self.latents


class Decoded(NamedTuple):
    """What the runs of one size make of a batch, and what it says of them."""

    reconstruction_C: Tensor
    """Squared error in scaled units, mean over rows."""
    sparsity_C: Tensor
    """Penalty times its coefficient."""
    error_C: Tensor
    """Squared error summed over sites, mean over rows."""
    active_C: Tensor | None
    """Latents that fire on a row, mean over rows, where the step is logged."""


class Sweep:
    """The crosscoders of several runs, one optimiser for all of them, and what is counted from step to step.

    Attributes:
        runs: the runs; they differ in latents, coefficient and name alone, and those of one size stand together.
        crosscoders: what is trained, views of the parameters below.
        W_enc_NP: encoders, with their biases as the last channel.
        W_dec_NM: decoders.
        b_dec_RM: decoder biases.
        steps_done: optimiser steps so far.
        silent_N: rows since each latent fired.
        first_faulty: the first step at which the loss or the gradient of a run was not finite, -1 if none was. From
            that step on no parameter changes any more.
        faulty_R: the runs that were not finite then.
    """

    def __init__(
        self,
        runs: Sequence[RunSettings],
        steps: int,
        d_model: int,
        statistics: Sequence[SiteStatistics],
    ) -> None:
        """Set up the runs with weights of 0.

        Args:
            runs: the runs.
            steps: steps of the whole run, for the schedules.
            d_model: D.
            statistics: statistics of all sites, in order.
        """
        self.runs, self.steps_done = tuple(runs), 0
        self.sizes, self._alone = _sizes(runs), tuple(Stepper(run, steps, d_model, statistics) for run in runs)
        # Units and schedules are the same for all runs.
        self.first = self._alone[0]
        self.crosscoders = crosscoders = tuple(stepper.crosscoder for stepper in self._alone)
        self.W_enc_NP = _joined([with_channel(one.W_enc_LSD.flatten(1), one.b_enc) for one in crosscoders])
        self.W_dec_NM = _joined([crosscoder.W_dec.flatten(1) for crosscoder in crosscoders])
        self.b_dec_RM = _joined([crosscoder.b_dec.flatten()[None] for crosscoder in crosscoders])
        self._share()
        self.parameters = [self.W_enc_NP, self.W_dec_NM, self.b_dec_RM]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimiser = FusedAdam([{"params": self.parameters}], runs[0].betas)
        device = self.W_dec_NM.device
        self.silent_N = torch.zeros(len(self.W_dec_NM), dtype=torch.int64, device=device)
        self.first_faulty = torch.tensor(-1, device=device)
        self.faulty_R = torch.zeros(len(runs), dtype=torch.bool, device=device)
        self.penalty_R = torch.tensor([run.sparsity or 0.0 for run in runs], device=device)

    def initialise(self, raw_BSD: Tensor) -> None:
        """Give each run the first weights that it has when it is trained alone; `raw_BSD` is the first batch."""
        for stepper in self._alone:
            stepper.initialise(raw_BSD)

    def _share(self) -> None:
        """Make the weights of each crosscoder a view of those of all runs."""
        start = 0
        for number, crosscoder in enumerate(self.crosscoders):
            own = slice(start, start + crosscoder.latents)
            crosscoder.W_enc_LSD.data = self.W_enc_NP.data[own, :-1].view_as(crosscoder.W_enc_LSD)
            crosscoder.b_enc.data = self.W_enc_NP.data[own, -1]
            crosscoder.W_dec.data = self.W_dec_NM.data[own].view_as(crosscoder.W_dec)
            crosscoder.b_dec.data = self.b_dec_RM.data[number].view_as(crosscoder.b_dec)
            start = own.stop

    @torch.no_grad()
    def step(self, raw_BSD: Tensor, logged: bool) -> list[dict[str, float]]:
        """Take one optimiser step of every run.

        Args:
            raw_BSD: raw activations (shape: [B, S, D]).
            logged: whether to measure the batch, for which the step waits for the device.

        Returns:
            Columns of `training.csv` for each run, before the parameters change; nothing if not `logged`.
        """
        self.first.steps_done = self.steps_done
        x_BM = self.first.crosscoder.scaled(raw_BSD.to(self.W_dec_NM.device, non_blocking=True)).flatten(1)
        x_BP = with_channel(x_BM, torch.ones_like(x_BM[:, 0]))
        f_NB = (self.W_enc_NP @ x_BP.T).relu_()
        decoded = [self._decode(size, f_NB, x_BM, logged) for size in self.sizes]
        # What stood for the code is the gradient of the pre-activations by now.
        torch.mm(f_NB, x_BP, out=self.W_enc_NP.grad)
        measured = self._measure(decoded, x_BM) if logged else []
        self._descend(torch.cat([part.reconstruction_C + part.sparsity_C for part in decoded]))
        self.steps_done += 1
        return measured

    def _decode(self, size: Size, f_NB: Tensor, x_BM: Tensor, logged: bool) -> Decoded:
        """Decode the runs of one size, and put the gradient of their pre-activations in the place of their code.

        loss = w sum ||x_hat - x||^2 / B + lambda sum_i n_i sum f_i / B, with w the weight of a site.
        """
        rows, count = len(x_BM), size.shape[0]
        f_CLB, W_dec_CLM = f_NB[size.rows].view(*size.shape, rows), self.W_dec_NM[size.rows].view(*size.shape, -1)
        penalty_C = self.penalty_R[size.runs] * self._sparsity_factor
        error_CMB = (self.b_dec_RM[size.runs, :, None] - x_BM.T).baddbmm_(W_dec_CLM.mT, f_CLB)
        error_C = error_CMB.square().sum((1, 2)) / rows
        active_C = (f_CLB > 0).sum((1, 2)) / rows if logged else None

        d_error_CPB = torch.cat(
            [error_CMB.mul_(2 * self._site_weight / rows), error_CMB.new_full((count, 1, rows), 1 / rows)], dim=1
        )
        d_W_dec_CLM, activity_CL1 = torch.split(f_CLB @ d_error_CPB.mT, [x_BM.shape[1], 1], dim=2)
        W_dec_CLSD = W_dec_CLM.view(*size.shape, *self._sites)
        norms_CLS1 = torch.linalg.vector_norm(W_dec_CLSD, dim=3, keepdim=True)
        norms_CL = norms_CLS1.sum((2, 3))
        activity_CL = activity_CL1.squeeze(2)
        # A norm of 0 has the gradient 0.
        along_CLSD = W_dec_CLSD / norms_CLS1.clamp_min(torch.finfo().tiny)
        price_CL11 = (penalty_C[:, None] * activity_CL)[..., None, None]
        _gradient(self.W_dec_NM)[size.rows] = (d_W_dec_CLM + (price_CL11 * along_CLSD).flatten(2)).flatten(0, 1)
        _gradient(self.b_dec_RM)[size.runs] = d_error_CPB[:, :-1].sum(2)
        d_f_CLB = with_channel(W_dec_CLM, penalty_C[:, None] * norms_CL) @ d_error_CPB
        torch.ops.aten.threshold_backward.grad_input(d_f_CLB, f_CLB, 0, grad_input=f_CLB)
        silent_CL = torch.where(activity_CL > 0, 0, self.silent_N[size.rows].view(size.shape) + rows)
        self.silent_N[size.rows] = silent_CL.flatten()
        return Decoded(error_C * self._site_weight, penalty_C * (activity_CL * norms_CL).sum(1), error_C, active_C)

    def _descend(self, loss_R: Tensor) -> None:
        """Change the parameters by their gradients, unless this step or one before it was faulty."""
        settings = self.runs[0]
        if settings.decoder == "unit":
            project_out(_by_site(_gradient(self.W_dec_NM), self._sites), _by_site(self.W_dec_NM, self._sites))
        norm_R = self._gradient_norms()
        faulty_R = ~(norm_R + loss_R).isfinite()
        now = faulty_R.any() & (self.first_faulty < 0)
        self.first_faulty = torch.where(now, self.steps_done, self.first_faulty)
        self.faulty_R = torch.where(now, faulty_R, self.faulty_R)
        if settings.gradient_clip is not None:
            self._clip(1 / (norm_R / settings.gradient_clip).clamp_min(1.0))
        for group in self.optimiser.param_groups:
            group["lr"] = self.first.learning_rate
        self.optimiser.step_clipped(norm_R[0], None, self.first_faulty >= 0)
        if settings.decoder == "unit":
            restore_unit_norm(_by_site(self.W_dec_NM, self._sites))

    def _gradient_norms(self) -> Tensor:
        """Compute the norm of the gradient of each run (shape: [R])."""
        square_N = sum(
            torch.linalg.vector_norm(_gradient(parameter), dim=1).square_()
            for parameter in (self.W_enc_NP, self.W_dec_NM)
        )
        square_R = torch.cat([square_N[size.rows].view(size.shape).sum(1) for size in self.sizes])
        return (square_R + _gradient(self.b_dec_RM).square().sum(1)).sqrt()

    def _clip(self, factor_R: Tensor) -> None:
        """Multiply the gradient of each run by its factor."""
        factor_N = torch.cat([factor_R[size.runs].repeat_interleave(size.latents) for size in self.sizes])
        for parameter, factor in ((self.W_enc_NP, factor_N), (self.W_dec_NM, factor_N), (self.b_dec_RM, factor_R)):
            _gradient(parameter).mul_(factor[:, None])

    def _measure(self, decoded: Sequence[Decoded], x_BM: Tensor) -> list[dict[str, float]]:
        """Give every run the columns of `training.csv`, as `Stepper` measures them."""
        spread = (x_BM - self.first.mean_SD.flatten()).square().sum() / len(x_BM)
        dead_N = (self.silent_N >= self.runs[0].dead.after_rows).float()
        dead_R = torch.cat([dead_N[size.rows].view(size.shape).mean(1) for size in self.sizes]).tolist()
        reconstruction_R, sparsity_R, error_R, active_R = (
            torch.cat([part for part in parts if part is not None]).tolist() for parts in zip(*decoded, strict=True)
        )
        return [
            {
                "step": self.steps_done + 1,
                "rows": (self.steps_done + 1) * len(x_BM),
                "loss": reconstruction_R[run] + sparsity_R[run],
                "reconstruction": reconstruction_R[run],
                "sparsity": sparsity_R[run],
                "auxiliary": 0.0,
                "fvu": error_R[run] / spread.item(),
                "l0": active_R[run],
                "dead": dead_R[run],
                "learning_rate": self.first.learning_rate,
            }
            for run in range(len(self.runs))
        ]

    def state(self) -> dict[str, Tensor]:
        """Collect every tensor that later steps depend on."""
        tensors = {"silent_N": self.silent_N}
        for name, parameter in zip(NAMES, self.parameters, strict=True):
            tensors[name] = parameter
            tensors |= {f"adam.{name}.{moment}": value for moment, value in self.optimiser.state[parameter].items()}
        return tensors

    def load_state(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned after `steps_done` steps."""
        self.steps_done = steps_done
        self.silent_N.copy_(tensors["silent_N"])
        for name, parameter in zip(NAMES, self.parameters, strict=True):
            parameter.data.copy_(tensors[name])
            prefix = f"adam.{name}."
            self.optimiser.state[parameter] = {
                key.removeprefix(prefix): value.to(parameter.device, copy=True)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

    @property
    def _sites(self) -> tuple[int, int]:
        """Sites and channels of each, (S, D)."""
        sites, d_model = self.first.crosscoder.b_dec.shape
        return sites, d_model

    @property
    def _sparsity_factor(self) -> float:
        """Share of each run's coefficient that counts at this step."""
        return sparsity_factor(self.steps_done, self.first.steps, self.runs[0].sparsity_warmup)

    @property
    def _site_weight(self) -> float:
        """What an error summed over sites is multiplied by."""
        return 1 / self._sites[0] if self.runs[0].site_error == "mean" else 1.0


NAMES = ("W_enc_NP", "W_dec_NM", "b_dec_RM")
"""Names of the parameters in a state, in the order of `Sweep.parameters`."""


def _sizes(runs: Sequence[RunSettings]) -> list[Size]:
    """Find the runs of each size; they stand together."""
    sizes, run, row = [], 0, 0
    for latents, of_size in groupby(runs, key=lambda run: run.latents):
        count = len(list(of_size))
        sizes.append(Size(slice(run, run + count), latents, slice(row, row + count * latents)))
        run, row = run + count, row + count * latents
    return sizes


def with_channel(tensor: Tensor, values: Tensor) -> Tensor:
    """Put one more channel after the last of (..., M), of these values of (...)."""
    return torch.cat([tensor, values[..., None]], dim=-1)


def _joined(tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat([tensor.detach() for tensor in tensors]))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _by_site(tensor_NM: Tensor, sites: tuple[int, int]) -> Tensor:
    return tensor_NM.view(-1, *sites)
