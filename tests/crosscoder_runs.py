"""Planted activations, and small runs over them, for the tests of the crosscoder."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.activations.reader import Reader
from ontogeny.activations.statistics import read_statistics, write_statistics
from ontogeny.activations.store import write_shard
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.model import Crosscoder, load_crosscoder
from ontogeny.crosscoder.parallel import ALONE, Ranks
from ontogeny.crosscoder.step import Stepper
from ontogeny.crosscoder.trainer import train
from ontogeny.sites import Site, shard_name

torch.set_num_threads(1)  # on matrices as small as these, threads wait for each other most of the time

JUMPRELU: dict[str, Any] = {"nonlinearity": "jumprelu", "k": None, "penalty": "tanh_quad", "sparsity": 0.1}
GATES = [*((kind, "shared") for kind in ("relu", "topk", "batchtopk", "jumprelu")), ("jumprelu", "site")]
HOOK = "blocks.2.hook_resid_post"


def sites_of(count: int) -> tuple[Site, ...]:
    """Name some sites: one hook at checkpoints 0, 1, 2, 4, ..."""
    return tuple(Site("neox", 2**n // 2, HOOK) for n in range(count))


class Planted(NamedTuple):
    """Activations that are sums of known features."""

    raw_BSD: NDArray[np.float32]
    directions_GSD: NDArray[np.float64]
    """Unit direction of each feature at each site; 0 where it is absent."""


def planted(
    rows: int, sites: int = 3, d_model: int = 16, features: int = 24, active: float = 2.0, norms: tuple[float, ...] = ()
) -> Planted:
    """Draw rows in which each feature is active now and then; feature 0 is absent at the last site.

    Args:
        rows: rows.
        sites: sites.
        d_model: channels.
        features: features; more of them than channels are in superposition.
        active: features that are active on a row, on average.
        norms: factor of each site's activations; 1 if left out.
    """
    random = np.random.default_rng(0)
    directions_GSD = random.standard_normal((features, sites, d_model))
    directions_GSD /= np.linalg.norm(directions_GSD, axis=-1, keepdims=True)
    directions_GSD[0, -1] = 0.0
    strength_BG = random.uniform(0.5, 1.5, (rows, features)) * (random.random((rows, features)) < active / features)
    raw_BSD = np.einsum("bg,gsd->bsd", strength_BG, directions_GSD)
    raw_BSD += 0.01 * random.standard_normal(raw_BSD.shape)
    if norms:
        raw_BSD *= np.array(norms)[:, None]
    return Planted(raw_BSD.astype(np.float32), directions_GSD)


def write_activations(folder: Path, raw_BSD: NDArray[np.float32], rows_per_shard: int) -> Path:
    """Write rows as train shards of `sites_of(S)` with their statistics, and return `folder`."""
    starts = range(0, len(raw_BSD), rows_per_shard)
    for number, site in enumerate(sites_of(raw_BSD.shape[1])):
        paths = [folder / site.key / f"{shard_name('train', shard)}.h5" for shard in range(len(starts))]
        for path, start in zip(paths, starts, strict=True):
            block_BD = np.ascontiguousarray(raw_BSD[start : start + rows_per_shard, number])
            write_shard(path, block_BD, site, f"rows of {path.stem}", "float16", {})
        write_statistics(paths, folder / site.key / "statistics.json", None)
    return folder


def run_settings(rows: int, shards: int = 1, sites: int = 3, **changes: Any) -> RunSettings:
    """Describe a small run; `changes` are keys of its settings."""
    plain: dict[str, object] = {
        "dictionary": "crosscoder",
        "run": "run",
        "sites": sites_of(sites),
        "latents": 32,
        "k": 2,
        "sparsity": None,
        "seed": 0,
        "shards": tuple(shard_name("train", number) for number in range(shards)),
        "rows": rows,
        "batch_size": 128,
        "learning_rate": 3e-3,
    }
    return RunSettings.model_validate({**plain, **changes})


def train_small(folder: Path, settings: RunSettings, activations: Path, fingerprint: str = "") -> Crosscoder:
    """Train a run into `folder`/run, with its state in `folder`/state, and load what was written."""
    train(settings, activations, folder / "state", folder / "run", fingerprint=fingerprint)
    return load_crosscoder(folder / "run")


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def stepper_of(activations: Path, settings: RunSettings, ranks: Ranks = ALONE) -> tuple[Stepper, Reader]:
    """Set up a run on its first weights, and open the rows and sites of this process."""
    sites, rows = settings.sites[ranks.own_sites(len(settings.sites))], ranks.own_rows(settings.batch_size)
    reader = Reader(activations, sites, settings.shards, settings.batch_size, settings.epochs, settings.seed, rows)
    statistics = [read_statistics(activations / site.key / "statistics.json") for site in settings.sites]
    stepper = Stepper(settings, reader.steps, reader.d_model, statistics, ranks)
    stepper.initialise(reader.read(0).raw_BSD)
    return stepper, reader


def scaled(stepper: Stepper, raw_BSD: Tensor) -> Tensor:
    """Scale raw activations on the device of a run, as its steps do."""
    return stepper.crosscoder.scaled(raw_BSD.to(stepper.ranks.device))


UNEVEN_ROWS, UNEVEN_SHARDS = 4096, 2


def write_uneven(folder: Path) -> Path:
    """Write planted rows at three sites whose activations have norms of 1 to 1, 10 and 100."""
    raw_BSD = planted(UNEVEN_ROWS, norms=(1.0, 10.0, 100.0)).raw_BSD
    return write_activations(folder, raw_BSD, UNEVEN_ROWS // UNEVEN_SHARDS)


def uneven_settings(**changes: Any) -> RunSettings:
    """Describe a small run over what `write_uneven` wrote."""
    return run_settings(UNEVEN_ROWS, UNEVEN_SHARDS, **changes)
