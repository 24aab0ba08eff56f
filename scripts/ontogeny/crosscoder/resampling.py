"""Dead latents start again from rows that are badly reconstructed (Bricken et al. 2023, appendix on resampling)."""

from collections.abc import Iterable

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
def resample(stepper: Stepper, raw_batches: Iterable[Tensor], random: Generator) -> int:
    """Let latents that were silent for the last half interval start again.

    Each takes a row of its own, drawn without replacement with a probability that goes with the square of the row's
    loss: its decoder becomes the scaled row at norm 1, all sites together, its encoder the same direction at a share of
    the mean norm of living encoders, and its bias 0. Adam forgets these entries, and no others.

    Args:
        stepper: the run; its latents, moments and counters change.
        raw_batches: rows to draw from (shape: [B, S, D] each), the same ones on every process that trains the run.
        random: source of the draw.

    Returns:
        How many latents started again: the dead, or fewer if there are fewer rows with a loss above 0.
    """
    settings = stepper.settings
    dead_N = (stepper.silent_L >= settings.dead.interval // 2 * settings.batch_size).nonzero().flatten()
    if len(dead_N) == 0:
        return 0
    rows_NM = _draw(stepper, raw_batches, random, len(dead_N))
    norm_N1 = stepper.ranks.norm_over_sites(torch.linalg.vector_norm(rows_NM, dim=1, keepdim=True))
    _start_again(stepper, dead_N[: len(rows_NM)], rows_NM / norm_N1.clamp_min(SMALLEST_NORM))
    return len(rows_NM)


def _draw(stepper: Stepper, raw_batches: Iterable[Tensor], random: Generator, wanted: int) -> Tensor:
    """Draw rows in one pass: those with the largest log(u) / loss^2 are a weighted draw without replacement.

    The keys are those of Efraimidis and Spirakis (2006), u^(1 / weight), in logarithms.
    """
    keys, rows = torch.empty(0, dtype=torch.float64), torch.empty(0)
    for raw_BSD in raw_batches:
        loss_B, x_BSD = stepper.row_losses(raw_BSD)
        weight_B = stepper.ranks.like_first(loss_B).double().square().cpu()
        key_B = torch.from_numpy(np.log1p(-random.random(len(weight_B)))) / weight_B
        key_B[weight_B == 0] = -torch.inf
        rows = x_BSD.flatten(1) if len(rows) == 0 else torch.cat((rows, x_BSD.flatten(1)))
        keys, kept = torch.cat((keys, key_B)).topk(min(wanted, len(keys) + len(key_B)))
        rows = rows[kept.to(rows.device)]
    return rows[keys.to(rows.device) > -torch.inf]


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
