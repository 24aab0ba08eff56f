"""Every row once an epoch, in a seeded order, and never one that is damaged."""

import threading
from pathlib import Path

import numpy as np
import pytest
from crosscoder_runs import sites_of, write_activations
from numpy.typing import NDArray

from ontogeny.activations.reader import BLOCK_ROWS, OPEN_SHARDS, Reader
from ontogeny.errors import UserError
from ontogeny.sites import shard_name

ROWS, PER_SHARD, SHARDS = 2500, 1000, 3


def rows_of(count: int, sites: int = 2) -> NDArray[np.float32]:
    """Number rows so that each can be told by its content: row r at site s is (r, s, ...)."""
    raw_BSD = np.ones((count, sites, 4), np.float32)
    raw_BSD[..., 0] = np.arange(count)[:, None] % 2000
    raw_BSD[..., 1] = np.arange(count)[:, None] // 2000
    raw_BSD[..., 2] = 1 + np.arange(sites)
    return raw_BSD


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_activations(tmp_path_factory.mktemp("activations"), rows_of(ROWS), PER_SHARD)


def reader_of(folder: Path, batch_size: int = 128, epochs: int = 1, seed: int = 0, shards: int = SHARDS) -> Reader:
    names = [shard_name("train", number) for number in range(shards)]
    return Reader(folder, sites_of(2), names, batch_size, epochs, seed)


def ids_of(reader: Reader, first_step: int = 0) -> NDArray[np.int64]:
    return np.stack([batch.row_ids_B for batch in reader.batches(first_step)])


def test_distinct_row_ids_are_the_rows_claimed(activations: Path) -> None:
    reader = reader_of(activations, epochs=3)
    ids = ids_of(reader)
    assert reader.rows == ROWS
    assert ids.shape == (reader.steps, 128)
    assert reader.steps == 3 * (ROWS // 128)
    for epoch in np.split(ids, 3):
        assert len(np.unique(epoch)) == epoch.size == ROWS // 128 * 128
    assert set(ids.flatten().tolist()) == set(range(ROWS))


def test_nothing_is_left_out_where_batches_fill_the_epoch(activations: Path) -> None:
    assert sorted(ids_of(reader_of(activations, batch_size=125)).flatten().tolist()) == list(range(ROWS))


def test_a_batch_holds_the_rows_that_its_ids_name(activations: Path) -> None:
    expected = rows_of(ROWS)
    for batch in reader_of(activations).batches():
        assert np.array_equal(batch.raw_BSD.numpy(), expected[batch.row_ids_B])


def test_the_order_belongs_to_the_seed_and_the_epoch(activations: Path) -> None:
    first, again, other = (ids_of(reader_of(activations, epochs=2, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    one, two = np.split(first, 2)
    assert not np.array_equal(one, two)
    assert not {frozenset(row) for row in one.tolist()} & {frozenset(row) for row in two.tolist()}


def test_shards_are_interleaved_in_contiguous_blocks(activations: Path) -> None:
    ids = ids_of(reader_of(activations, batch_size=1000))
    assert len(np.unique(ids[0] // PER_SHARD)) > 1
    runs = np.diff(np.flatnonzero(np.diff(ids.flatten(), prepend=-2, append=-2) != 1))
    assert runs.max() <= 2 * BLOCK_ROWS
    assert runs.mean() > BLOCK_ROWS / 3


def test_reading_goes_on_from_any_step_as_if_it_had_never_stopped(activations: Path) -> None:
    whole = ids_of(reader_of(activations, epochs=2))
    for step in (1, 7, ROWS // 128 - 1, ROWS // 128, ROWS // 128 + 3, len(whole) - 1):
        reader = reader_of(activations, epochs=2)
        assert np.array_equal(ids_of(reader, step), whole[step:])
        assert np.array_equal(reader.read(step).row_ids_B, whole[step])


def test_more_shards_than_are_open_at_a_time(tmp_path: Path) -> None:
    shards = 2 * OPEN_SHARDS + 1
    write_activations(tmp_path, rows_of(shards * 100), 100)
    reader = reader_of(tmp_path, batch_size=70, shards=shards)
    seen = [batch.row_ids_B for batch in reader.batches()]
    assert len(np.unique(np.concatenate(seen))) == shards * 100 // 70 * 70


def test_steps_beyond_the_epochs_are_refused_instead_of_repeating_rows(activations: Path) -> None:
    reader = reader_of(activations, epochs=2)
    with pytest.raises(
        UserError, match=r"there is no step 38 in 2 x 2500 rows, which are 38 steps of 128; raise .*epochs"
    ):
        reader.read(38)


def test_too_few_rows_for_one_batch_are_refused(activations: Path) -> None:
    with pytest.raises(UserError, match=r"3 shards hold 2500 rows, fewer than one batch of 4096; raise .*train_rows"):
        reader_of(activations, batch_size=4096)
    with pytest.raises(UserError, match="0 shards hold 0 rows, fewer than one batch of 128"):
        reader_of(activations, shards=0)


def test_a_flipped_byte_reaches_the_step_as_one_line(tmp_path: Path) -> None:
    write_activations(tmp_path, rows_of(ROWS), PER_SHARD)
    shard = tmp_path / sites_of(2)[1].key / "train-00002.h5"
    damaged = bytearray(shard.read_bytes())
    damaged[-100] ^= 1
    shard.write_bytes(damaged)
    before = threading.active_count()
    with pytest.raises(UserError, match=r"step1/.*train-00002\.h5: its bytes have changed"):
        list(reader_of(tmp_path).batches())
    assert threading.active_count() == before


def test_sites_with_other_rows_are_refused_before_the_first_step(tmp_path: Path) -> None:
    write_activations(tmp_path / "a", rows_of(600), 600)
    write_activations(tmp_path / "b", rows_of(500), 500)
    site = sites_of(2)[1]
    (tmp_path / "b" / site.key / "train-00000.h5").replace(tmp_path / "a" / site.key / "train-00000.h5")
    with pytest.raises(UserError, match="rows is 500, but 600 in"):
        reader_of(tmp_path / "a", shards=1)


def test_leaving_early_leaves_no_thread_behind(activations: Path) -> None:
    before = threading.active_count()
    batches = reader_of(activations).batches()
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_time_spent_waiting_is_counted(activations: Path) -> None:
    reader = reader_of(activations)
    list(reader.batches())
    assert 0 < reader.seconds_waited < 60


def test_rows_of_a_step_are_named_by_shard(activations: Path) -> None:
    reader = reader_of(activations)
    pieces = [piece.rstrip("]").split("[") for piece in reader.describe(3).split(", ")]
    ids: list[int] = []
    for shard, span in pieces:
        start, stop = map(int, span.split(":"))
        ids += [int(shard[-1]) * PER_SHARD + row for row in range(start, stop)]
    assert ids == reader.read(3).row_ids_B.tolist()
