"""What the training rows of a site look like: mean, mean norm and scale."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.activations.store import BLOCK_ROWS, Shard, open_shard
from ontogeny.command import progress
from ontogeny.errors import UserError
from ontogeny.files import write_json
from ontogeny.hdf5 import MEND
from ontogeny.provenance import provenance

Doubles = NDArray[np.float64]


class SiteStatistics(NamedTuple):
    """Statistics of one site over all its training rows, in units of the raw activations."""

    rows: int
    """Rows counted, each once."""
    mean: Doubles
    """Mean activation (shape: [d_model])."""
    mean_norm: float
    """Mean over rows of ||x||."""
    scale: float
    """a_s = sqrt(d_model) / mean_norm: scaled rows have the norm of a standard normal vector."""
    centered_norm: float
    """Mean over rows of ||x - mean||."""


def site_statistics(shards: Sequence[Shard]) -> SiteStatistics:
    """Compute the statistics of one site from every row of its shards, in float64 (two passes: the mean comes first).

    Raises:
        UserError: shards of different sites or widths, the same rows twice, or activations that are all zero.
    """
    _check_one_site(shards)
    rows = sum(shard.rows for shard in shards)
    total_D = np.zeros(shards[0].d_model)
    norms = 0.0
    for block_BD in _blocks(shards):
        total_D += block_BD.sum(axis=0)
        norms += _norms(block_BD)
    if norms == 0:
        raise UserError(f"{shards[0].path}: all activations of {shards[0].site.key} are 0; choose another hook")
    mean_D = total_D / rows
    centered = sum(_norms(block_BD - mean_D) for block_BD in _blocks(shards))
    mean_norm = norms / rows
    return SiteStatistics(rows, mean_D, mean_norm, len(mean_D) ** 0.5 / mean_norm, centered / rows)


def write_statistics(shards: Sequence[Path], out: Path, study: Path | None) -> dict[str, float]:
    """Verify every byte of a site's training shards and write the site's statistics.

    Args:
        shards: all training shards of one site.
        out: `activations/<model>/step<k>/<hook>/statistics.json`.
        study: the study's `study.json`, or None.

    Returns:
        Counts for the cost line: rows and bytes on disk.

    Raises:
        UserError: a shard is damaged (see `open_shard`), or the shards do not belong together (`site_statistics`).
    """
    size = {path: path.stat().st_size for path in shards if path.is_file()}
    work = progress(shards, sum(size.values()), "bytes", lambda path: size[path])
    opened = [open_shard(path, verify=True) for path in work]
    found = site_statistics(opened)
    value = {
        **opened[0].site._asdict(),
        **found._asdict(),
        "mean": found.mean.tolist(),
        "shards": {shard.path.stem: shard.rows_hash for shard in opened},
        "provenance": provenance(study),
    }
    write_json(out, value)
    return {"rows": found.rows, "bytes": sum(size.values())}


def read_statistics(path: Path) -> SiteStatistics:
    """Read the statistics of a site.

    Raises:
        UserError: the file is missing or is not whole.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = {name: value[name] for name in SiteStatistics._fields}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run the rule that writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: these are no statistics of a site ({error}); {MEND}") from None
    return SiteStatistics(**{**found, "mean": np.array(found["mean"], np.float64)})


def _check_one_site(shards: Sequence[Shard]) -> None:
    first, seen = shards[0], dict[str, Path]()
    for shard in shards:
        if (shard.site, shard.d_model) != (first.site, first.d_model):
            raise UserError(
                f"{shard.path}: it holds {shard.d_model} channels of {shard.site.key}, but {first.path} holds "
                f"{first.d_model} of {first.site.key}; give the shards of one site"
            )
        if shard.rows_hash in seen:
            raise UserError(f"{shard.path}: it holds the same rows as {seen[shard.rows_hash]}; give each shard once")
        seen[shard.rows_hash] = shard.path


def _blocks(shards: Sequence[Shard]) -> Iterator[Doubles]:
    for shard in shards:
        for start in range(0, shard.rows, BLOCK_ROWS):
            yield shard.read(start, min(start + BLOCK_ROWS, shard.rows)).astype(np.float64)


def _norms(rows_BD: Doubles) -> float:
    """Sum the Euclidean norms of rows."""
    return float(np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD)).sum())
