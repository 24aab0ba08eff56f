"""Files appear whole or not at all."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ontogeny import files
from ontogeny.errors import UserError
from ontogeny.files import atomic, atomic_folder, crc32, write_csv, write_json


def test_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        (temporary / "weights").write_text("half")
        raise ZeroDivisionError
    assert (path / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("old", "new"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["new"]


KILLED = """
import os, signal, sys
from pathlib import Path
from ontogeny.files import atomic, atomic_folder
with atomic_folder(Path(sys.argv[1], "step7")) as folder, atomic(Path(sys.argv[1], "table.csv")) as file:
    (folder / "weights").write_text("half")
    file.write_text("half")
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""
"""Writes a folder and a file, and is killed in the middle of both."""


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_what_a_killed_writer_leaves_is_removed_by_the_next_and_nothing_else(tmp_path: Path, end: str) -> None:
    others = [".step7.abc.tmp.json", ".step7.5.abc.tmp", ".step70.abc.tmp", ".table.b.12.tmp.csv", ".table.12.tmp.pdf"]
    for name in others:
        (tmp_path / name).touch()
    scripts = Path(files.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(scripts)}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, end], env=environment, check=False)
    assert done.returncode == -getattr(signal, end)
    assert len(list(tmp_path.iterdir())) == len(others) + 2
    with atomic_folder(tmp_path / "step7") as folder, atomic(tmp_path / "table.csv") as file:
        (folder / "weights").write_text("whole")
        file.write_text("whole")
    assert {entry.name for entry in tmp_path.iterdir()} == {*others, "step7", "table.csv"}


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises((UserError, OSError)), atomic(tmp_path / "big") as temporary:
            temporary.write_bytes(bytes(8192))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_no_space_left_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table\.h5: the disk is full"), atomic(tmp_path / "table.h5"):
        raise OSError("Can't write data (errno = 28, error message = 'No space left on device')")


def test_numbers_survive_a_csv(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, -1 / 3]
    write_csv(tmp_path / "t.csv", pd.DataFrame({"value": values}))
    assert list(pd.read_csv(tmp_path / "t.csv", float_precision="round_trip").value) == values


def test_checksum_sees_one_bit(tmp_path: Path) -> None:
    write_json(tmp_path / "a", [1])
    first = crc32(tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes().replace(b"1", b"3"))
    assert crc32(tmp_path / "a") != first
