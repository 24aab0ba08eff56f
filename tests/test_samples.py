from pathlib import Path

import numpy as np
import pytest
from evaluation_study import CONTEXT_LENGTH, make_rows, make_tokenizer, make_tokens

from ontogeny.activations.rows import read_rows
from ontogeny.errors import UserError
from ontogeny.evaluation.samples import RowIndex, token_texts, windows
from ontogeny.evaluation.sparse import SparseActivations
from ontogeny.evaluation.top import Firings, TopFirings, strongest


def firings(*places: tuple[int, int, int, float]) -> Firings:
    latent, context, position, activation = zip(*places, strict=True)
    return Firings(
        np.array(latent, np.int32),
        np.array(context, np.int32),
        np.array(position, np.int32),
        np.array(activation, np.float32),
    )


def test_the_strongest_firings_are_of_different_contexts() -> None:
    places = firings(
        (1, 0, 5, 9.0), (1, 0, 6, 8.0), (1, 1, 2, 7.0), (1, 2, 2, 1.0), (0, 3, 1, 0.5), (1, 4, 9, 7.0), (1, 4, 3, 7.0)
    )
    kept, rank = strongest(places, 3)
    assert list(zip(*kept, rank, strict=True)) == [
        (0, 3, 1, 0.5, 0),
        (1, 0, 5, 9.0, 0),
        (1, 1, 2, 7.0, 1),
        (1, 4, 3, 7.0, 2),
    ]


def test_streaming_keeps_what_sorting_everything_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontogeny.evaluation.top.PENDING", 100)
    rng = np.random.default_rng(0)
    size = 5000
    everything = Firings(
        (13 - np.minimum(rng.geometric(0.5, size), 13)).astype(np.int32),
        rng.integers(0, 60, size).astype(np.int32),
        np.arange(size, dtype=np.int32),
        (rng.integers(1, 40, size) / 8).astype(np.float32),
    )
    expected = strongest(everything, 5)
    for order in (np.arange(size), rng.permutation(size), np.argsort(everything.activation)):
        top = TopFirings(latents=13, count=5)
        for start in range(0, size, 37):
            top.add(everything.take(order[start : start + 37]))
        kept, rank = top.strongest()
        assert rank.tolist() == expected[1].tolist()
        for found, wanted in zip(kept, expected[0], strict=True):
            assert np.array_equal(found, wanted)
    counts = np.bincount(expected[0].latent, minlength=13)
    assert counts[12] == 5
    assert any(0 < count < 5 for count in counts), "no latent is so rare that all of its firings are kept"


def test_no_firing_at_all_gives_no_samples() -> None:
    kept, rank = TopFirings(latents=3, count=5).strongest()
    assert len(kept.latent) == len(rank) == 0


def test_windows_end_where_their_context_does() -> None:
    found = windows(np.array([1, 5, 9]), np.array([10, 10, 10]), reach=2)
    assert found.start.tolist() == [0, 3, 7]
    assert np.split(found.position, found.ends[1:-1])[0].tolist() == [0, 1, 2, 3]
    assert np.split(found.position, found.ends[1:-1])[1].tolist() == [3, 4, 5, 6, 7]
    assert np.split(found.position, found.ends[1:-1])[2].tolist() == [7, 8, 9]
    assert found.sample.tolist() == [0] * 4 + [1] * 5 + [2] * 3


def test_activations_are_found_again_and_silence_is_zero(tmp_path: Path) -> None:
    stored = SparseActivations(latents=10, folder=tmp_path)
    assert stored.at(np.array([0]), np.array([3])).tolist() == [0.0]
    stored.add(np.array([0, 0, 2]), np.array([1, 9, 0]), np.array([0.5, 1.5, 2.5], np.float32))
    stored.add(np.array([3]), np.array([9]), np.array([3.5], np.float32))
    found = stored.at(np.array([0, 0, 1, 2, 3, 3, 4]), np.array([1, 9, 0, 0, 9, 8, 0]))
    assert found.tolist() == [0.5, 1.5, 0.0, 2.5, 3.5, 0.0, 0.0]
    del stored
    assert list(tmp_path.iterdir()) == []


def test_tokens_that_the_tokenizer_lacks_have_no_text(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    texts = token_texts(tmp_path / "tokenizer/tokenizer.json", 300).to_pylist()
    assert texts[0] == "<|endoftext|>"
    assert texts[299] == ""
    with pytest.raises(UserError, match=r"tokenizer.json: no such file"):
        token_texts(tmp_path / "tokenizer.json", 300)


def test_an_index_tells_absent_positions_from_rows(tmp_path: Path) -> None:
    make_tokens(tmp_path)
    rows = [read_rows(tmp_path / f"activations/rows/{shard}.h5") for shard in make_rows(tmp_path, (30, 20))]
    index = RowIndex(rows)
    context, position = (np.concatenate([getattr(shard, name) for shard in rows]) for name in ("context", "position"))
    assert index.find(context, position).tolist() == list(range(50))
    everywhere = np.indices((12, CONTEXT_LENGTH + 5)).reshape(2, -1)
    assert (index.find(*everywhere) >= 0).sum() == 50
