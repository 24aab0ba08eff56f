"""Files that appear whole or not at all."""

import errno
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a full disk, a full quota and a limit on the size of files."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename what was written there to `path` when the block ends well.

    The temporary name keeps the suffix of `path`. A block that raises leaves nothing behind and `path` as it was; what
    a killed writer leaves behind is removed by the next one, since a path has one writer at a time.

    Raises:
        UserError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent, path.stem, path.suffix)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with full_disk(path):
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path` and put it in the place of `path` when the block ends well.

    What a killed writer leaves behind is removed by the next one, since a path has one writer at a time.

    Raises:
        UserError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent, path.name, "")
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with full_disk(path):
            temporary.chmod(0o755)
            yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(folder: Path, stem: str, suffix: str) -> None:
    """Remove `.<stem>.<no dot here>.tmp<suffix>`: temporary files and folders of writers that were killed."""
    name = re.compile(rf"\.{re.escape(stem)}\.[^.]+\.tmp{re.escape(suffix)}")
    for leftover in [entry for entry in folder.iterdir() if name.fullmatch(entry.name)]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with a final newline."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, numbers with all the digits that tell them apart."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def crc32(path: Path) -> str:
    """Checksum of a file's bytes as eight hexadecimal digits."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Say a full disk in one line; h5py hides the error's number in its text, on closing in that of a RuntimeError.

    Raises:
        UserError: the disk of `path` became full in the block.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        reason = next((os.strerror(n) for n in FULL_DISK if n == number or os.strerror(n) in str(error)), None)
        if reason is None:
            raise
        free = shutil.disk_usage(path.parent).free
        raise UserError(
            f"{path}: the disk is full ({reason}, {free / 2**20:.0f} MiB left); free some space and run again"
        ) from error
