"""Speed of a sweep of small dictionaries side by side, over that of the same runs one after the other.

Both take their steps on the same rows of planted features, which are in memory, in the same process, in turns: a few
steps of all runs of a size together, then as many of each alone. On one CPU thread it counts CPU seconds, which what
else runs on the machine disturbs least; otherwise run it on an idle machine. Compare the ratios.

PYTHONPATH=scripts python benchmarks/sweep.py
"""

import argparse
import statistics
import sys
import time

import torch
from torch import Tensor

from ontogeny.activations.planted import planted_activations
from ontogeny.activations.statistics import SiteStatistics
from ontogeny.config.dictionaries import RunSettings, SweepSettings
from ontogeny.config.models import PlantedModel
from ontogeny.crosscoder.step import Stepper
from ontogeny.crosscoder.sweep import Sweep
from ontogeny.sites import Site

SITE = Site("toy", 0, "blocks.0.hook_resid_post")
ROUNDS = 3
"""Turns of both, whose median counts."""


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-model", type=int, default=256, help="channels; there are twice as many features")
    parser.add_argument("--latents", type=int, nargs="+", default=[2**e for e in range(6, 15)])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--before", type=int, default=100, help="steps before those that are timed")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a turn")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    batches = draw(given.d_model, given.batch_size, given.before + given.steps)
    print_line(
        f"{'latents':>8} {'runs':>5} {'ms together':>12} {'ms alone, sum':>14} {'ratio':>6} {'cells x rows/s':>15}"
    )
    together_all = 0.0
    for latents in given.latents:
        runs = runs_of(latents, given.batch_size)
        together, alone = measure(runs, batches, given.before)
        together_all += together
        rate = len(runs) * given.batch_size / together
        print_line(
            f"{latents:8d} {len(runs):5d} {1e3 * together:12.1f} {1e3 * alone:14.1f} {alone / together:6.2f} "
            f"{rate:15,.0f}"
        )
    print_line(f"a step of all: {1e3 * together_all:.0f} ms; 20,000 of them: {20000 * together_all / 60:.0f} minutes")


def draw(d_model: int, batch_size: int, steps: int) -> list[Tensor]:
    """Draw the rows of every step (shape: [B, 1, D] each)."""
    model = PlantedModel(
        source="planted", checkpoints=(0,), d_model=d_model, features=2 * d_model, active=5.0, correlated=True
    )
    x_BD = torch.from_numpy(planted_activations(model, SITE, "train-00000", steps * batch_size))
    return list(torch.split(x_BD[:, None], batch_size))


def runs_of(latents: int, batch_size: int) -> list[RunSettings]:
    """List the 17 runs of a size: coefficients a quarter of a decade apart, from 0.01 to 100."""
    sweep = SweepSettings(
        dictionary="sae",
        sites=(SITE,),
        latents=(latents,),
        k=None,
        sparsity=tuple(float(10 ** (e / 4)) for e in range(-8, 9)),
        shards=("train-00000",),
        rows=1,
        nonlinearity="relu",
        penalty="l1",
        decoder="unit",
        initialisation="independent",
        batch_size=batch_size,
        gradient_clip=None,
        warmup=0.0,
        decay=0.0,
        sparsity_warmup=0.0,
    )
    return list(sweep.runs([0]).values())


def measure(runs: list[RunSettings], batches: list[Tensor], before: int) -> tuple[float, float]:
    """Time a step of all runs together, and the sum of a step of each alone, in seconds."""
    x_BD = torch.cat(batches)[:, 0].double()
    mean_norm, spread = (float(torch.linalg.vector_norm(rows, dim=1).mean()) for rows in (x_BD, x_BD - x_BD.mean(0)))
    site = SiteStatistics(len(x_BD), x_BD.mean(0).numpy(), mean_norm, x_BD.shape[1] ** 0.5 / mean_norm, spread)
    sweep = Sweep(runs, 10**6, x_BD.shape[1], [site])
    sweep.initialise(batches[0])
    steppers = [Stepper(run, 10**6, x_BD.shape[1], [site]) for run in runs]
    for stepper in steppers:
        stepper.initialise(batches[0])
    for batch in batches[:before]:
        sweep.step(batch, False)
        for stepper in steppers:
            stepper.step(batch, False)
    together, alone = [], []
    for _ in range(ROUNDS):
        together.append(timed(sweep, batches[before:]))
        alone.append(sum(timed(stepper, batches[before:]) for stepper in steppers))
    return statistics.median(together), statistics.median(alone)


def timed(trained: Sweep | Stepper, batches: list[Tensor]) -> float:
    """Measure the mean seconds of a step."""
    clock = time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.monotonic
    start = clock()
    for batch in batches:
        trained.step(batch, False)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - start) / len(batches)


def print_line(text: str) -> None:
    """Write a line of the table."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
