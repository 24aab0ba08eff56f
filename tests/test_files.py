"""Files appear whole or not at all."""

import resource
import signal
from pathlib import Path

import pandas as pd
import pytest

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
