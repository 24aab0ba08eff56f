"""Tables of a run, read piece by piece so that memory does not grow with the number of features."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ontogeny.errors import UserError, first_line
from ontogeny.evaluation.tables import COLUMNS

BATCH = 512
"""Features that are read, and written, together."""


def metadata(file: Path, columns: Iterable[str]) -> dict[str, str]:
    """Read what a table says of itself, and see that it has all `columns`.

    Raises:
        UserError: the file is missing or damaged, or lacks a column.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a table of the run")
    with undamaged(file):
        schema = pq.read_schema(file)
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise UserError(f"{file}: column {missing[0]!r} is missing; make the table again")
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"}


def rows(file: Path, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table.

    Raises:
        UserError: the file is damaged.
    """
    for batch in batches(file, columns):
        yield from batch.to_pylist()


def batches(file: Path, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Yield a table in pieces; what the library reads ahead otherwise grows with the file.

    Raises:
        UserError: the file is damaged.
    """
    with undamaged(file), pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as table:
        yield from table.iter_batches(BATCH, columns=list(columns))


@contextmanager
def undamaged(file: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: it is damaged ({first_line(error)}); remove it and make it again") from error


def csv_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the cells of each line of a table of metrics.

    Raises:
        UserError: the file is missing or is no such table.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected the run's metrics, from reconstruction.py and nll.py")
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.reader(text)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise UserError(f"{file}: its columns are {', '.join(header)}; expected {', '.join(COLUMNS)}")
        for cells in reader:
            if len(cells) != len(COLUMNS):
                raise UserError(f"{file}: line {reader.line_num} has {len(cells)} cells; expected {len(COLUMNS)}")
            yield reader.line_num, dict(zip(COLUMNS, cells, strict=True))
