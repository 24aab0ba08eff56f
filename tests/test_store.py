"""Shards keep activations exactly and are read as they were written."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from shard_files import SITE, SITES, aligned_files, bits, normal, write

from ontogeny.activations.store import encode, open_aligned, open_shard
from ontogeny.hdf5 import checksum


def test_p6_float16_shards_return_every_bit_that_was_written(tmp_path: Path) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = every[np.isfinite(every)].reshape(-1, 64)
    assert {0x0000, 0x8000, 0x0001, 0x8001, 0x7BFF, 0xFBFF} <= set(finite.astype(np.float16).view(np.uint16).ravel())
    shard = open_shard(write(tmp_path / "train-00000.h5", finite), verify=True)
    assert bits(shard.read(0, shard.rows)) == bits(finite)


def test_p6_float16_shards_round_to_the_nearest(tmp_path: Path) -> None:
    activations_BD = np.concatenate([normal(64, 32) * 10.0**power for power in range(-9, 4)])
    shard = open_shard(write(tmp_path / "train-00000.h5", activations_BD))
    assert bits(shard.read(0, shard.rows)) == bits(activations_BD.astype(np.float16).astype(np.float32))


def test_p6_int8_shards_return_scale_times_step_plus_mean(tmp_path: Path) -> None:
    activations_BD = normal(300, 48) * np.geomspace(1e-30, 1e30, 300, dtype=np.float32)[:, None]
    activations_BD[:, 0] *= -1
    stored = encode(activations_BD)
    shard = open_shard(write(tmp_path / "train-00000.h5", activations_BD, "int8"), verify=True)
    expected = stored["activations"].astype(np.float32) * stored["scale"][:, None] + stored["mean"]
    assert bits(shard.read(0, 300)) == bits(expected)
    assert stored["activations"].min() == -127
    assert stored["activations"].max() == 127


def test_int8_keeps_constant_rows_and_rows_of_zeros_and_subnormals(tmp_path: Path) -> None:
    for activations_BD in (np.full((5, 3), -7.25, np.float32), np.zeros((5, 3), np.float32)):
        with np.errstate(divide="raise", invalid="raise"):
            shard = open_shard(write(tmp_path / "train-00000.h5", activations_BD, "int8"))
        assert bits(shard.read(0, 5)) == bits(activations_BD)
    tiny = np.array([[1e-45, -1e-43], [0, 3e-44]], np.float32)
    shard = open_shard(write(tmp_path / "train-00000.h5", tiny, "int8"))
    assert np.abs(shard.read(0, 2) - tiny).max() < 1e-43


def test_int8_error_stays_small_beside_constant_outlier_channels(tmp_path: Path) -> None:
    activations_BD = normal(4096, 256)
    activations_BD[:, [3, 77]] += 200
    shard = open_shard(write(tmp_path / "train-00000.h5", activations_BD, "int8"))
    error = ((shard.read(0, 4096) - activations_BD) ** 2).sum() / ((activations_BD - activations_BD.mean(0)) ** 2).sum()
    assert error < 1e-4


def test_the_largest_half_is_kept(tmp_path: Path) -> None:
    largest = np.array([[65504, -65504]], np.float32)
    assert bits(open_shard(write(tmp_path / "train-00000.h5", largest)).read(0, 1)) == bits(largest)


def test_activations_lie_contiguous_on_disk_with_what_made_them(tmp_path: Path) -> None:
    activations_BD = normal(100, 16)
    path = write(tmp_path / "train-00000.h5", activations_BD)
    with h5py.File(path) as file:
        dataset = file["activations"]
        offset = dataset.id.get_offset()
        assert (dataset.chunks, dataset.compression, dataset.dtype) == (None, None, np.float16)
        found = dict(file.attrs)
    assert path.read_bytes()[offset : offset + 3200] == activations_BD.astype(np.float16).tobytes()
    assert (found["model"], found["step"], found["hook"]) == (b"neox", 512, b"blocks.2.hook_resid_post")
    assert (found["dtype"], found["rows_hash"]) == (b"float16", b"a1b2")
    assert json.loads(found["provenance"]) == {"study": "default", "versions": "torch 2"}
    assert found["crc32"].decode() == checksum([activations_BD.astype(np.float16)])


def test_equal_activations_give_equal_files(tmp_path: Path) -> None:
    for dtype in ("float16", "int8"):
        one = write(tmp_path / "one.h5", normal(50, 8), dtype).read_bytes()
        assert one == write(tmp_path / "two.h5", normal(50, 8), dtype).read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_blocks_are_the_rows_asked_for(tmp_path: Path, dtype: str) -> None:
    shard = open_shard(write(tmp_path / "train-00000.h5", normal(1000, 8), dtype))
    whole_BD = shard.read(0, 1000)
    assert np.array_equal(np.concatenate([shard.read(start, start + 125) for start in range(0, 1000, 125)]), whole_BD)
    assert (shard.rows, shard.d_model, shard.site, shard.rows_hash) == (1000, 8, SITE, "a1b2")
    assert (whole_BD.dtype.name, whole_BD.flags.writeable) == ("float32", True)


def test_sites_are_read_side_by_side_in_the_order_asked_for(tmp_path: Path) -> None:
    paths = aligned_files(tmp_path, SITES)
    order = (SITES[2], SITES[0])
    aligned = open_aligned(tmp_path, order, "train-00000", verify=True)
    block_BSD = aligned.read(5, 12)
    assert (block_BSD.shape, block_BSD.dtype.name) == ((7, 2, 4), "float32")
    for number, site in enumerate(order):
        assert np.array_equal(block_BSD[:, number], open_shard(paths[site]).read(5, 12))
    assert (aligned.rows, aligned.d_model, aligned.rows_hash) == (20, 4, "a1b2")
