"""What the training rows of a site look like: mean, mean norm and scale."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.activations.source import source_of
from ontogeny.activations.store import BLOCK_ROWS, Shard, open_shard
from ontogeny.command import progress
from ontogeny.config.activations import OPEN_SHARDS
from ontogeny.errors import UserError
from ontogeny.files import write_json
from ontogeny.hdf5 import MEND
from ontogeny.provenance import provenance
from ontogeny.sites import Site

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
    sums = _Sums(shards[0])
    for shard in shards:
        sums.add(shard)
    for shard in shards:
        sums.add_centered(shard)
    return sums.statistics()


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
    _write(out, opened[0].site, found, {shard.path.stem: shard.rows_hash for shard in opened}, study)
    return {"rows": found.rows, "bytes": sum(size.values())}


def write_streamed_statistics(
    folder: Path, sites: Sequence[Site], shards: Sequence[str], study: Path | None
) -> dict[str, float]:
    """Write the statistics of all sites of a checkpoint, whose activations are streamed.

    The model runs twice over the rows if they are more than training has open at a time: the mean comes first.

    Args:
        folder: folder of `streamed.json`, rows and statistics, such as `activations/streamed/`.
        sites: sites of one checkpoint.
        shards: names of all training shards.
        study: the study's `study.json`, or None.

    Returns:
        Counts for the cost line: rows.

    Raises:
        UserError: a file is missing or damaged, or activations are all zero.
    """
    numbers = range(len(shards))
    groups = [numbers[first : first + OPEN_SHARDS] for first in range(0, len(shards), OPEN_SHARDS)]
    with closing(source_of(folder, sites, shards)) as source:
        rows = source.rows()
        open_number = source.opener([*groups, *groups])
        hashes, sums_S = dict[str, str](), list[_Sums]()
        for number in progress(numbers, sum(rows), "rows", lambda number: rows[number]):
            opened = open_number(number)
            hashes[shards[number]] = opened.rows_hash
            sums_S = sums_S or [_Sums(shard) for shard in opened.shards]
            for sums, shard in zip(sums_S, opened.shards, strict=True):
                sums.add(shard)
        for number in progress(numbers, sum(rows), "rows", lambda number: rows[number]):
            for sums, shard in zip(sums_S, open_number(number).shards, strict=True):
                sums.add_centered(shard)
    for site, sums in zip(sites, sums_S, strict=True):
        _write(folder / site.key / "statistics.json", site, sums.statistics(), hashes, study)
    return {"rows": sum(rows)}


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


class _Sums:
    """What the statistics of a site are made of, in float64: add all shards first, then all of them once more."""

    def __init__(self, shard: Shard) -> None:
        self._path, self._site, self._rows = shard.path, shard.site, 0
        self._total_D = np.zeros(shard.d_model)
        self._norms = self._centered = 0.0

    def add(self, shard: Shard) -> None:
        self._rows += shard.rows
        for block_BD in _blocks(shard):
            self._total_D += block_BD.sum(axis=0)
            self._norms += _norms(block_BD)

    def add_centered(self, shard: Shard) -> None:
        mean_D = self._mean()
        for block_BD in _blocks(shard):
            self._centered += _norms(block_BD - mean_D)

    def statistics(self) -> SiteStatistics:
        mean_D, mean_norm = self._mean(), self._norms / self._rows
        return SiteStatistics(
            self._rows, mean_D, mean_norm, len(mean_D) ** 0.5 / mean_norm, self._centered / self._rows
        )

    def _mean(self) -> Doubles:
        if self._norms == 0:
            raise UserError(f"{self._path}: all activations of {self._site.key} are 0; choose another hook")
        return self._total_D / self._rows


def _write(out: Path, site: Site, found: SiteStatistics, hashes: dict[str, str], study: Path | None) -> None:
    value = {**site._asdict(), **found._asdict(), "mean": found.mean.tolist(), "shards": hashes}
    write_json(out, {**value, "provenance": provenance(study)})


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


def _blocks(shard: Shard) -> Iterator[Doubles]:
    for start in range(0, shard.rows, BLOCK_ROWS):
        yield shard.read(start, min(start + BLOCK_ROWS, shard.rows)).astype(np.float64)


def _norms(rows_BD: Doubles) -> float:
    """Sum the Euclidean norms of rows."""
    return float(np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD)).sum())
