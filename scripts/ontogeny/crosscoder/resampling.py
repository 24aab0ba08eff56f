"""Dead latents start again from rows that are badly reconstructed (Bricken et al. 2023, appendix on resampling)."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ontogeny.crosscoder.step import Stepper

SMALLEST_NORM = 1e-12
"""What the norm of a row counts as at least, so that a row of zeros stays one."""


def resampling_due(steps_done: int, interval: int, times: int) -> int | None:
    """Give the number of the resampling that follows a step, from 0; None if there is none."""
    number, rest = divmod(steps_done, interval)
    return number - 1 if rest == 0 and 1 <= number <= times else None


@torch.no_grad()
def resample(steppers: Sequence[Stepper], raw_batches: Iterable[Tensor], random: Generator) -> list[int]:
    """Let latents that were silent for the last half interval start again.

    Each takes a row of its own, drawn without replacement with a probability that goes with the square of the row's
    loss: its decoder becomes the scaled row at norm 1, all sites together, its encoder the same direction at a share of
    the mean norm of living encoders, and its bias 0. Adam forgets these entries, and no others.

    Args:
        steppers: runs of one recipe and seed; their latents, moments and counters change.
        raw_batches: rows to draw from (shape: [B, S, D] each), the same ones on every process that trains a run.
        random: source of the draw, which is that of each run alone.

    Returns:
        How many latents of each started again: the dead, or fewer if there are fewer rows with a loss above 0.
    """
    drawn = [_Draw(stepper) for stepper in steppers]
    wanting = [draw for draw in drawn if len(draw.dead_N)]
    for raw_BSD in raw_batches if wanting else ():
        log_u_B = torch.from_numpy(np.log1p(-random.random(len(raw_BSD))))
        for draw in wanting:
            draw.add(raw_BSD, log_u_B)
    for draw in wanting:
        draw.finish()
    return [len(draw.rows_NM) for draw in drawn]


class _Draw:
    """Rows that are drawn for a run in one pass: those with the largest log(u) / loss^2, without replacement.

    The keys are those of Efraimidis and Spirakis (2006), u^(1 / weight), in logarithms.
    """

    def __init__(self, stepper: Stepper) -> None:
        settings = stepper.settings
        self.stepper = stepper
        self.dead_N = (stepper.silent_L >= settings.dead.interval // 2 * settings.batch_size).nonzero().flatten()
        self.keys_N, self.rows_NM = torch.empty(0, dtype=torch.float64), torch.empty(0)

    def add(self, raw_BSD: Tensor, log_u_B: Tensor) -> None:
        """Keep as many rows as there are dead latents, of those before and these."""
        loss_B, x_BSD = self.stepper.row_losses(raw_BSD)
        weight_B = self.stepper.ranks.like_first(loss_B).double().square().cpu()
        key_B = log_u_B / weight_B
        key_B[weight_B == 0] = -torch.inf
        x_BM = x_BSD.flatten(1)
        rows = x_BM if len(self.rows_NM) == 0 else torch.cat((self.rows_NM, x_BM))
        keys = torch.cat((self.keys_N, key_B))
        self.keys_N, kept = keys.topk(min(len(self.dead_N), len(keys)))
        self.rows_NM = rows[kept.to(rows.device)]

    def finish(self) -> None:
        """Let the latents start again from the rows."""
        self.rows_NM = self.rows_NM[self.keys_N.to(self.rows_NM.device) > -torch.inf]
        norm_N1 = self.stepper.ranks.norm_over_sites(torch.linalg.vector_norm(self.rows_NM, dim=1, keepdim=True))
        unit_NM = self.rows_NM / norm_N1.clamp_min(SMALLEST_NORM)
        _start_again(self.stepper, self.dead_N[: len(unit_NM)], unit_NM)


def _start_again(stepper: Stepper, dead_N: Tensor, unit_NM: Tensor) -> None:
    crosscoder = stepper.crosscoder
    unit_NSD = unit_NM.view(len(dead_N), *crosscoder.W_dec.shape[1:])
    alive_L = torch.ones_like(stepper.silent_L, dtype=torch.bool).index_fill_(0, dead_N, False)
    norm_L = stepper.ranks.norm_over_sites(crosscoder.W_enc_LSD.flatten(1).norm(dim=1))
    norm = norm_L[alive_L].mean() if alive_L.any() else torch.tensor(1.0)
    crosscoder.W_dec[dead_N] = unit_NSD
    crosscoder.W_enc_LSD[dead_N] = unit_NSD * (stepper.settings.dead.encoder_scale * norm)
    crosscoder.b_enc[dead_N] = 0.0
    by_latent = [crosscoder.W_dec, crosscoder.W_enc_LSD, crosscoder.b_enc]
    if stepper.log_threshold_L is not None:
        stepper.log_threshold_L[dead_N] = float(np.log(stepper.settings.threshold))
        crosscoder.thresholds()[dead_N] = stepper.log_threshold_L.exp()[dead_N]
        by_latent.append(stepper.log_threshold_L)
    for parameter in by_latent:
        for name in ("exp_avg", "exp_avg_sq"):
            stepper.optimiser.state[parameter][name][dead_N] = 0.0
    stepper.silent_L[dead_N] = 0
