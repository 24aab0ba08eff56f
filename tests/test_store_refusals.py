"""Shards refuse what they cannot keep, and are refused when damaged."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from disk_limits import file_size_limit
from shard_files import MIB, SITE, SITES, aligned_files, bits, flip, foreign, full_disk, normal, refusal, write

from ontogeny.activations.store import open_aligned, open_shard, verify_shard
from ontogeny.errors import UserError


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65505.0), ("float16", -7e4), ("int8", 3e38)])
def test_values_beyond_the_type_are_refused_by_site_row_and_value(tmp_path: Path, dtype: str, value: float) -> None:
    activations_BD = normal(5000, 8)
    activations_BD[4321, 5] = value
    line = refusal(lambda: write(tmp_path / "train-00000.h5", activations_BD, dtype))
    assert f"{SITE.hook} of {SITE.checkpoint} is {value:g} at row 4321, channel 5" in line
    assert ("set activations.dtype to int8" in line) == (dtype == "float16"), "which would not help int8"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    activations_BD = normal(20, 8)
    activations_BD[13, 2] = value
    line = refusal(lambda: write(tmp_path / "train-00000.h5", activations_BD, dtype))
    assert f"is {value:g} at row 13, channel 2" in line
    assert "activations.precision to float32" in line


@pytest.mark.parametrize(("start", "stop"), [(10, 10), (5, 3), (8, 11), (-2, 4), (12, 20)])
def test_p1_rows_that_are_not_there_raise_instead_of_reading_less(tmp_path: Path, start: int, stop: int) -> None:
    shard = open_shard(write(tmp_path / "train-00000.h5", normal(10, 4)))
    with pytest.raises(IndexError, match=re.escape(f"rows {start} to {stop} in a shard of 10")):
        shard.read(start, stop)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_no_flipped_byte_changes_what_is_read(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "train-00000.h5", normal(6, 4), dtype)
    whole, shard = path.read_bytes(), open_shard(path)
    expected = (bits(shard.read(0, 6)), shard.stored.attributes)
    data = whole.index(shard.stored.arrays["activations"].tobytes())
    lines = {}
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = open_shard(path, verify=True)
        except UserError as error:
            lines[place] = str(error)
        else:
            assert (bits(found.read(0, 6)), found.stored.attributes) == expected
    assert set(range(data, data + 24)) <= lines.keys()
    for line in lines.values():
        assert re.fullmatch(rf"{path}: .*; delete it and run again", line)


def test_a_flipped_byte_is_named_as_a_change_on_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "train-00000.h5", normal(64, 32))
    flip(path)
    line = refusal(lambda: verify_shard(path))
    assert re.fullmatch(rf"{path}: its bytes have changed .*delete it and run again", line)


def test_p8_a_shard_cut_short_anywhere_is_refused_on_opening(tmp_path: Path) -> None:
    path = write(tmp_path / "train-00000.h5", normal(64, 32))
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        line = refusal(lambda: open_shard(path))
        assert line.startswith(f"{path}: ")
        assert line.endswith("delete it and run again")


def test_p8_a_shard_of_full_size_but_zeros_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train-00000.h5", normal(64, 32))
    size = path.stat().st_size
    path.write_bytes(b"\0" * size)
    assert "no whole HDF5 file" in refusal(lambda: open_shard(path))


@pytest.mark.parametrize("name", ["model", "step", "hook", "dtype", "rows_hash", "crc32"])
def test_a_missing_attribute_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "train-00000.h5", normal(8, 4))
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    assert refusal(lambda: open_shard(path)) == f"{path}: attribute {name!r} is missing; delete it and run again"


def test_files_that_are_no_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.h5"
    assert "there is no such file" in refusal(lambda: open_shard(path))
    path.write_text("activations")
    assert "no whole HDF5 file" in refusal(lambda: open_shard(path))
    foreign(path, np.zeros((8, 4), np.float16), chunks=(2, 4))
    assert "is chunked or empty float16, not contiguous" in refusal(lambda: open_shard(path))
    foreign(path, np.zeros((8, 4), np.float64))
    assert "is contiguous float64, not contiguous float16 or int8" in refusal(lambda: open_shard(path))
    foreign(path, np.zeros(8, np.float16))
    assert "are not those of rows and channels" in refusal(lambda: open_shard(path))


def test_a_value_that_is_not_finite_is_named_by_its_row(tmp_path: Path) -> None:
    values = np.ones((5000, 4), np.float16)
    values[4999, 1] = np.nan
    foreign(tmp_path / "train-00000.h5", values)
    line = refusal(lambda: verify_shard(tmp_path / "train-00000.h5"))
    assert "row 4999 is not finite" in line


def test_p2_sites_with_different_rows_are_refused_by_both_names(tmp_path: Path) -> None:
    paths = aligned_files(tmp_path, SITES, step8="ffff")
    line = refusal(lambda: open_aligned(tmp_path, SITES, "train-00000"))
    assert str(paths[SITES[0]]) in line
    assert str(paths[SITES[1]]) in line
    assert "rows_hash is ffff, but a1b2" in line


@pytest.mark.parametrize(("shape", "what"), [((19, 4), "rows is 19, but 20"), ((20, 5), "d_model is 5, but 4")])
def test_sites_of_other_shapes_are_refused_by_both_names(tmp_path: Path, shape: tuple[int, int], what: str) -> None:
    paths = aligned_files(tmp_path, SITES)
    write(paths[SITES[2]], normal(*shape), site=SITES[2])
    line = refusal(lambda: open_aligned(tmp_path, SITES, "train-00000"))
    assert what in line
    assert str(paths[SITES[0]]) in line
    assert str(paths[SITES[2]]) in line


def test_p16_a_shard_in_another_sites_folder_is_refused(tmp_path: Path) -> None:
    paths = aligned_files(tmp_path, SITES)
    shutil.copy(paths[SITES[1]], paths[SITES[2]])
    line = refusal(lambda: open_aligned(tmp_path, SITES, "train-00000"))
    assert f"it holds {SITES[1].key}, not {SITES[2].key}" in line


def test_a_flipped_byte_at_any_site_is_refused_where_bytes_are_verified(tmp_path: Path) -> None:
    sites = tuple(site._replace(model="wide") for site in SITES)
    for site in sites:
        write(tmp_path / site.key / "train-00000.h5", normal(64, 32), site=site)
    flip(tmp_path / sites[1].key / "train-00000.h5")
    open_aligned(tmp_path, sites, "train-00000")
    line = refusal(lambda: open_aligned(tmp_path, sites, "train-00000", verify=True))
    assert line.startswith(f"{tmp_path / sites[1].key / 'train-00000.h5'}: its bytes have changed")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, dtype: str) -> None:
    """Shards of about the size of the disk fail on their first bytes, on their last or not at all."""
    folder = tmp_path / "disk"
    path, big = folder / "train-00000.h5", folder / "train-00001.h5"
    fitting = MIB // (256 if dtype == "float16" else 132)
    outcomes = set()
    with full_disk(folder):
        before = write(path, normal(16, 128), dtype).read_bytes()
        for rows in [4 * fitting, *range(fitting - 128, fitting + 32, 4)]:
            try:
                write(big, np.ones((rows, 128), np.float32), dtype)
            except UserError as error:
                outcomes.add(re.sub(r"\(.*\)", "()", str(error)))
                assert list(folder.iterdir()) == [path]
            else:
                outcomes.add("written")
                with file_size_limit(resource.RLIM_INFINITY):
                    whole = write(tmp_path / "whole.h5", np.ones((rows, 128), np.float32), dtype)
                assert big.read_bytes() == whole.read_bytes()
                big.unlink()
        refusal(lambda: write(path, normal(4 * fitting, 128), dtype))
        assert path.read_bytes() == before
    assert outcomes == {"written", f"{big}: the disk is full (); free some space and run again"}


@pytest.mark.parametrize("size", [MIB, 4096, 100])
def test_a_limit_on_the_size_of_files_is_one_line_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    with file_size_limit(size):
        line = refusal(lambda: write(tmp_path / "train-00000.h5", normal(8192, 128)))
    assert f"the disk is full ({os.strerror(errno.EFBIG)}, " in line
    assert list(tmp_path.iterdir()) == []


def test_p8_a_killed_writer_leaves_no_shard_and_the_next_one_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.h5"
    code = (
        "import sys, numpy, pathlib; from ontogeny.activations.store import write_shard; from ontogeny.sites import Site;"
        "write_shard(pathlib.Path(sys.argv[1]), numpy.ones((2**18, 256), 'f4'), Site('m', 0, 'h'), 'a', 'float16', {})"
    )
    scripts = Path(__file__).parents[1] / "scripts"
    writer = subprocess.Popen([sys.executable, "-c", code, path], env={**os.environ, "PYTHONPATH": str(scripts)})
    while not any(file.stat().st_size for file in tmp_path.iterdir()):
        assert writer.poll() is None
        time.sleep(0.001)
    writer.kill()
    assert writer.wait() == -9
    assert not path.exists()
    assert [file.name.startswith(".train-00000.") for file in tmp_path.iterdir()] == [True]
    write(path, normal(10, 4))
    assert list(tmp_path.iterdir()) == [path]
