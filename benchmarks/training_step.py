"""Speed of a training step, as a share of what the machine's own matrix products reach in the same process.

A row of a dense crosscoder costs 10 S D L operations: five products. The rate of a step counts these operations for
every row, whether they were carried out or found to be products with 0; so a step that goes over the entries which fire
alone can be faster than the machine's matrix rate.

Every figure is a median; the first steps are left out. Run it on an idle machine: `make bench`.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ontogeny.activations.reader import Reader
from ontogeny.activations.statistics import SiteStatistics, read_statistics, write_statistics
from ontogeny.activations.store import write_shard
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.step import Stepper
from ontogeny.sites import Site

HOOK = "blocks.0.hook_resid_post"
PRECISIONS = ("float32", "bfloat16")
RECIPES: dict[str, dict[str, Any]] = {
    "relu, l1": {"nonlinearity": "relu", "penalty": "l1", "sparsity": 0.2},
    "topk": {"nonlinearity": "topk", "k": 32},
    "batchtopk": {"nonlinearity": "batchtopk", "k": 32},
    "batchtopk, l1, auxk": {
        "nonlinearity": "batchtopk",
        "k": 32,
        "penalty": "l1",
        "sparsity": 0.2,
        "dead": {"policy": "auxk", "after_rows": 1, "k": 512},
    },
    "jumprelu, tanh_quad": {"nonlinearity": "jumprelu", "penalty": "tanh_quad", "sparsity": 0.3},
    "jumprelu by site, tanh_quad": {
        "nonlinearity": "jumprelu",
        "gate": "site",
        "penalty": "tanh_quad",
        "sparsity": 0.3,
    },
}


class Shape(NamedTuple):
    """Sizes of a benchmark."""

    sites: int
    d_model: int
    latents: int
    batch_size: int

    @property
    def operations(self) -> int:
        """Floating-point operations that a dense step counts."""
        return 10 * self.sites * self.d_model * self.latents * self.batch_size


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=12)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=25, help="timed steps of each recipe")
    parser.add_argument("--l0", type=int, default=40, help="latents that fire on a row, where no k says it")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=RECIPES, help="recipes; all if left out")
    given = parser.parse_args()
    shape = Shape(given.sites, given.d_model, given.latents, given.batch_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    write(f"{shape}, {device}, {torch.get_num_threads()} threads\n")
    rates = {precision: matrix_rate(shape, precision, device) for precision in PRECISIONS}
    plain = {precision: plain_dense_seconds(shape, precision, device, given.steps) for precision in PRECISIONS}
    write("| | precision | ms a step | rows/s | share of matrix rate | times plain dense | fires | waits | peak MiB |")
    write("|---|---|---|---|---|---|---|---|---|")
    for precision in PRECISIONS:
        row("matrix products alone", precision, shape, shape.operations / rates[precision], rates, plain, "")
        row("plain dense loop (relu, l1)", precision, shape, plain[precision], rates, plain, "")
    with TemporaryDirectory() as folder:
        activations = write_activations(Path(folder), shape)
        for name, precision in product(given.recipes, PRECISIONS):
            step = trainer_seconds(activations, shape, RECIPES[name] | {"precision": precision}, given.steps, given.l0)
            row(name, precision, shape, step.seconds, rates, plain, f"{step.fires:.1f} | {step.waits:.1%}")


def row(
    name: str,
    precision: str,
    shape: Shape,
    seconds: float,
    rates: dict[str, float],
    plain: dict[str, float],
    more: str,
) -> None:
    """Write one line of the table."""
    share, times = shape.operations / seconds / rates[precision], plain[precision] / seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    cost = f"{1000 * seconds:.1f} | {shape.batch_size / seconds:,.0f} | {share:.0%} | {times:.2f}"
    write(f"| {name} | {precision} | {cost} | {more or ' | '} | {peak:,} |")


def write(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def median_seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Time calls, the first three left out."""
    seconds = []
    for repeat in range(repeats + 3):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat >= 3:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def matrix_rate(shape: Shape, precision: str, device: torch.device) -> float:
    """Measure the machine's rate on the products of a step, in operations a second."""
    kind = getattr(torch, precision)
    x_BM = torch.randn(shape.batch_size, shape.sites * shape.d_model, device=device, dtype=kind)
    h_BL = torch.randn(shape.batch_size, shape.latents, device=device, dtype=kind)
    W_LM = torch.randn(shape.latents, shape.sites * shape.d_model, device=device, dtype=kind)
    calls: list[Callable[[], object]] = [lambda: x_BM @ W_LM.T, lambda: h_BL @ W_LM, lambda: h_BL.T @ x_BM]
    a_step = [median_seconds(call, 15, device) for call in calls]
    return shape.operations / (2 * a_step[0] + a_step[1] + 2 * a_step[2])


def plain_dense_seconds(shape: Shape, precision: str, device: torch.device, steps: int) -> float:
    """Time a plain PyTorch loop: ReLU and L1, dense, autograd, Adam, casts by autocast, one batch in memory."""
    torch.manual_seed(0)
    inputs = shape.sites * shape.d_model
    W_enc = nn.Parameter(torch.randn(inputs, shape.latents, device=device) / inputs**0.5)
    W_dec = nn.Parameter(torch.randn(shape.latents, inputs, device=device) / shape.latents**0.5)
    b_enc, b_dec = (nn.Parameter(torch.zeros(size, device=device)) for size in (shape.latents, inputs))
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=1e-5, fused=True)
    x = torch.randn(shape.batch_size, inputs, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            f = torch.relu(x @ W_enc + b_enc)
            reconstruction = f @ W_dec + b_dec
        norms = W_dec.view(shape.latents, shape.sites, -1).norm(dim=-1).sum(1)
        loss = (reconstruction.float() - x).square().sum() / len(x) + 0.2 * (f.float() * norms).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return median_seconds(step, steps, device)


class Step(NamedTuple):
    """What was measured of a recipe."""

    seconds: float
    """Median seconds of a step, waiting for rows included."""
    fires: float
    """Latents that fire on a row."""
    waits: float
    """Share of the time in which the step waited for rows."""


def trainer_seconds(activations: Path, shape: Shape, recipe: dict[str, Any], steps: int, l0: int) -> Step:
    """Time the trainer's own steps, from shards, with every tenth of them measured for the log."""
    settings = settings_of(shape, recipe)
    reader = Reader(activations, settings.sites, settings.shards, settings.batch_size, settings.epochs, settings.seed)
    stepper = Stepper(settings, steps + 5, reader.d_model, statistics_of(activations, settings))
    first_BSD = reader.read(0).raw_BSD
    stepper.initialise(first_BSD)
    if settings.k is None:
        fire_rarely(stepper, first_BSD, l0)
    seconds, fires, start = [], 0.0, time.perf_counter()
    for number, batch in enumerate(endless(reader)):
        measured = stepper.step(batch, logged=number % 10 == 9)
        if stepper.crosscoder.W_dec.is_cuda:
            torch.cuda.synchronize()
        fires = measured["l0"] if measured else fires
        if number == 4:
            reader.seconds_waited, begun = 0.0, time.perf_counter()
        elif number > 4:
            seconds.append(time.perf_counter() - start)
        if number == steps + 4:
            return Step(statistics.median(seconds), fires, reader.seconds_waited / (time.perf_counter() - begun))
        start = time.perf_counter()
    raise AssertionError("rows ran out")


def endless(reader: Reader) -> Iterator[Tensor]:
    """Yield the rows of the shards again and again."""
    while True:
        yield from (batch.raw_BSD for batch in reader.batches())


@torch.no_grad()
def fire_rarely(stepper: Stepper, raw_BSD: Tensor, l0: int) -> None:
    """Lower the encoder biases until about `l0` latents fire on a row, as they do once training is under way."""
    crosscoder = stepper.crosscoder
    h_BL = crosscoder.pre_activations(crosscoder.scaled(raw_BSD.to(crosscoder.scales.device)))
    share = 1 - l0 / crosscoder.latents
    crosscoder.b_enc.sub_(torch.from_numpy(np.quantile(h_BL.cpu().numpy(), share, axis=0)).to(crosscoder.b_enc))
    if crosscoder.threshold is not None and stepper.log_threshold_L is not None:
        stepper.log_threshold_L.fill_(float(np.log(1e-3)))
        crosscoder.threshold.copy_(stepper.log_threshold_L.exp())


def settings_of(shape: Shape, recipe: dict[str, Any]) -> RunSettings:
    """Describe a run whose learning rate leaves the state as it is."""
    plain: dict[str, Any] = {"k": None, "sparsity": None, "seed": 0, "learning_rate": 1e-9}
    sites = tuple(Site("model", step, HOOK) for step in range(shape.sites))
    sizes = {"latents": shape.latents, "batch_size": shape.batch_size, "rows": shape.batch_size * 8}
    names = {"dictionary": "crosscoder", "run": "run", "shards": ("train-00000",), "sites": sites}
    return RunSettings.model_validate({**plain, **names, **sizes, **recipe})


def statistics_of(activations: Path, settings: RunSettings) -> list[SiteStatistics]:
    """Read the statistics of every site."""
    return [read_statistics(activations / site.key / "statistics.json") for site in settings.sites]


def write_activations(folder: Path, shape: Shape) -> Path:
    """Write one shard of eight batches of random rows at every site."""
    random = np.random.default_rng(0)
    for step in range(shape.sites):
        site = Site("model", step, HOOK)
        path = folder / site.key / "train-00000.h5"
        rows = random.standard_normal((8 * shape.batch_size, shape.d_model), dtype=np.float32)
        write_shard(path, rows, site, "rows", "float16", {})
        write_statistics([path], folder / site.key / "statistics.json", None)
    return folder


if __name__ == "__main__":
    main()
