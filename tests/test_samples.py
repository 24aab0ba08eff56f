from pathlib import Path

import numpy as np
import pytest
from disk_limits import file_size_limit
from evaluation_study import CONTEXT_LENGTH, make_rows, make_tokenizer, make_tokens
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from ontogeny.activations.rows import Rows, read_rows
from ontogeny.config.evaluation import FeatureSettings
from ontogeny.errors import UserError
from ontogeny.evaluation.choosing import TOP, choose
from ontogeny.evaluation.features import histogram
from ontogeny.evaluation.samples import texts_of, token_texts
from ontogeny.evaluation.sparse import FiringsByLatent, SparseActivations
from ontogeny.evaluation.text_windows import Covering, RowIndex, windows

SETTINGS = FeatureSettings(samples=3, quantiles=4, quantile_samples=2)


def stored(folder: Path, activation_RL: NDArray[np.float32], block: int = 50) -> FiringsByLatent:
    """Store activations block by block, as they are encoded."""
    sparse = SparseActivations(activation_RL.shape[1], folder)
    for start in range(0, len(activation_RL), block):
        row, latent = activation_RL[start : start + block].nonzero()
        sparse.add(row + start, latent, activation_RL[row + start, latent])
    return sparse.by_latent()


def random_activations(rows: int, latents: int) -> NDArray[np.float32]:
    """Activations of latents that fire more and more rarely, the last one never, with many that are equal."""
    rng = np.random.default_rng(0)
    fires_RL = rng.random((rows, latents)) < 0.5 ** np.arange(latents)
    fires_RL[:, -1] = False
    return (fires_RL * rng.integers(1, 60, (rows, latents)) / 8).astype(np.float32)


def test_the_strongest_firings_are_of_different_contexts(tmp_path: Path) -> None:
    activation_R1 = np.array([[9.0], [8.0], [7.0], [1.0], [7.0], [7.0], [0.0]], np.float32)
    context_R, place_R = np.array([0, 0, 1, 2, 4, 4, 5]), np.array([5, 6, 12, 22, 49, 43, 50])
    settings = FeatureSettings(samples=3, quantile_samples=0)
    found = choose(stored(tmp_path, activation_R1), place_R, context_R, settings)
    assert list(zip(*found, strict=True)) == [(0, TOP, 0, 0, 9.0), (0, TOP, 1, 2, 7.0), (0, TOP, 2, 5, 7.0)]


def test_bands_hold_equal_numbers_of_firings(tmp_path: Path) -> None:
    """With no limit to what is drawn, and a context for each row, all but the strongest are shown."""
    activation_RL = random_activations(600, 8)
    place_R = np.random.default_rng(1).permutation(600)
    settings = FeatureSettings(samples=3, quantiles=5, quantile_samples=600)
    found = choose(stored(tmp_path, activation_RL), place_R, place_R, settings)
    for latent in range(8):
        rows = activation_RL[:, latent].nonzero()[0]
        ascending = rows[np.lexsort((-place_R[rows], activation_RL[rows, latent]))]
        bands = [ascending[len(rows) * q // 5 + (len(rows) * q % 5 > 0) :] for q in range(5)]
        own = found.latent == latent
        assert found.group[own].tolist() == sorted(found.group[own])
        assert found.row[own & (found.group == TOP)].tolist() == ascending[::-1][:3].tolist()
        for q in range(5):
            here = own & (found.group == q)
            expected = [row for row in bands[q] if q == 4 or row not in bands[q + 1]]
            assert found.row[here].tolist() == [row for row in expected[::-1] if row not in ascending[-3:]]
            assert found.rank[here].tolist() == list(range(here.sum()))
    assert (found.activation == activation_RL[found.row, found.latent]).all()
    assert not (found.latent == 7).any(), "the last latent never fires"


def test_what_is_drawn_is_of_different_contexts_and_of_none_of_the_strongest(tmp_path: Path) -> None:
    activation_RL = random_activations(600, 8)
    place_R = np.arange(600)
    context_R = place_R // 20
    found = choose(stored(tmp_path, activation_RL), place_R, context_R, SETTINGS)
    for latent in range(7):
        own = found.latent == latent
        drawn = own & (found.group >= 0)
        assert len(np.unique(context_R[found.row[drawn]])) == drawn.sum()
        assert not set(found.row[drawn]) & set(found.row[own & ~drawn])
        edges = np.quantile(activation_RL[activation_RL[:, latent] > 0, latent], np.arange(5) / 4)
        for q in range(4):
            here = own & (found.group == q)
            assert here.sum() == 2 or latent > 2, "a latent that fires often fills every band"
            assert ((found.activation[here] >= edges[q] - 1e-6) & (found.activation[here] <= edges[q + 1])).all()
            assert (np.diff(found.activation[here]) <= 0).all()


def test_the_order_of_rows_changes_nothing_and_the_seed_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    activation_RL = random_activations(600, 8)
    place_R = np.arange(600)
    expected = choose(stored(tmp_path, activation_RL), place_R, place_R // 20, SETTINGS)
    monkeypatch.setattr("ontogeny.evaluation.sparse.SORTED_AT_ONCE", 37)
    order = np.random.default_rng(2).permutation(600)
    found = choose(stored(tmp_path, activation_RL[order], 11), place_R[order], place_R[order] // 20, SETTINGS)
    assert (order[found.row] == expected.row).all()
    assert all((one == two).all() for one, two in zip(found, expected, strict=True) if one is not found.row)
    other = choose(
        stored(tmp_path, activation_RL), place_R, place_R // 20, SETTINGS.model_copy(update={"quantile_seed": 1})
    )
    top, others = expected.group == TOP, other.group == TOP
    assert (other.row[others] == expected.row[top]).all()
    assert other.row[~others].tolist() != expected.row[~top].tolist()


def test_firings_drawn_are_of_any_strength_within_their_band(tmp_path: Path) -> None:
    """Over many latents that fire alike, every firing of a band is drawn about equally often."""
    activation_RL = np.repeat(np.arange(1, 41, dtype=np.float32)[:, None], 400, axis=1)
    found = choose(stored(tmp_path, activation_RL), np.arange(40), np.arange(40), SETTINGS)
    drawn = np.bincount(found.row[found.group >= 0], minlength=40)
    assert drawn.sum() == 400 * 8
    assert drawn[37:].sum() == 0, "the three strongest"
    assert drawn[:30].min() > 50, "80 of each are expected"
    assert drawn[:30].max() < 115


def test_no_firing_at_all_gives_no_samples(tmp_path: Path) -> None:
    nothing = choose(stored(tmp_path, np.zeros((4, 3), np.float32)), np.arange(4), np.arange(4), SETTINGS)
    assert [len(column) for column in nothing] == [0] * 5


def test_histogram_by_hand() -> None:
    found = histogram(np.array([5.0, 0.125, 0.0625, 0.15, 4.95, 4.875, 1e-6], np.float32))
    assert found[:2].tolist() == [3, 1], "0.125 is the upper edge of the first of 40 bins, and stands in it"
    assert found[38:].tolist() == [1, 2]
    assert found.sum() == 7
    assert histogram(np.empty(0, np.float32)).tolist() == [0] * 40
    assert histogram(np.arange(1, 41, dtype=np.float32) * 3).tolist() == [1] * 40


def test_windows_end_where_their_context_does() -> None:
    found = windows(np.array([0, 1, 2]), np.array([1, 5, 9]), np.array([10, 10, 10]), reach=2)
    assert found.start.tolist() == [0, 3, 7]
    window, position = found.tokens()
    assert window.tolist() == [0] * 4 + [1] * 5 + [2] * 3
    assert position.tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9]
    part = found.part(slice(1, 3))
    assert [numbers.tolist() for numbers in part.tokens()] == [[0] * 5 + [1] * 3, [3, 4, 5, 6, 7, 7, 8, 9]]


def test_activations_are_found_again_and_silence_is_zero(tmp_path: Path) -> None:
    sparse = SparseActivations(latents=10, folder=tmp_path)
    assert sparse.by_latent().at(np.array([0]), np.array([3])).tolist() == [0.0]
    sparse.add(np.array([0, 0, 2]), np.array([1, 9, 0]), np.array([0.5, 1.5, 2.5], np.float32))
    sparse.add(np.array([3]), np.array([9]), np.array([3.5], np.float32))
    firings = sparse.by_latent()
    assert [column.tolist() for column in firings.of(9)] == [[0, 3], [1.5, 3.5]]
    found = firings.at(np.array([0, 0, 1, 2, 3, 3, 4]), np.array([1, 9, 0, 0, 9, 8, 0]))
    assert found.tolist() == [0.5, 1.5, 0.0, 2.5, 3.5, 0.0, 0.0]
    del sparse, firings
    assert list(tmp_path.iterdir()) == []


def test_tokens_that_the_tokenizer_lacks_have_no_text(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    texts = token_texts(tmp_path / "tokenizer/tokenizer.json", 300).to_pylist()
    assert texts[0] == "<|endoftext|>"
    assert texts[299] == ""
    with pytest.raises(UserError, match=r"tokenizer.json: no such file"):
        token_texts(tmp_path / "tokenizer.json", 300)


def test_tokens_keep_the_space_in_front_of_them(tmp_path: Path) -> None:
    """Decoders of SentencePiece's kind drop it from a token that is decoded alone."""
    words = ["<unk>", "<0xE2>", "a", "s", "\u2581a", "\u2581the", "\u2581cat"]
    tokenizer = Tokenizer(BPE({word: number for number, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = token_texts(tmp_path / "tokenizer.json", 8).to_pylist()
    assert texts == ["<unk>", "\ufffd", "a", "s", " a", " the", " cat", ""]
    tokenizer.decoder = decoders.Metaspace()
    assert texts_of(tokenizer, [5, 6, 3]) == [" the", " cat", "s"]


def test_an_index_tells_absent_positions_from_rows(tmp_path: Path) -> None:
    make_tokens(tmp_path)
    rows = [read_rows(tmp_path / f"activations/rows/{shard}.h5") for shard in make_rows(tmp_path, (30, 20))]
    index = RowIndex(rows)
    context, position = (np.concatenate([getattr(shard, name) for shard in rows]) for name in ("context", "position"))
    assert index.find(context, position).tolist() == list(range(50))
    everywhere = np.indices((12, CONTEXT_LENGTH + 5)).reshape(2, -1)
    assert (index.find(*everywhere) >= 0).sum() == 50


def test_the_windows_of_a_row_are_those_that_reach_it() -> None:
    """Rows end before their contexts do, so that windows reach further than any row."""
    context, position = np.array([0, 0, 1, 1, 2, 0, 1, 2]), np.array([1, 2, 1, 3, 2, 3, 0, 3])
    rows = [Rows(context.astype(np.int32), position.astype(np.int32), *(np.zeros(8, np.int32),) * 2, "", "")]
    index = RowIndex(rows)
    at = np.array([7, 0, 3, 5, 3, 1])
    found = windows(context[at], position[at], np.array([6, 4, 6]), reach=2)
    row, sample = Covering(found, index)(index.place)
    expected = {
        (r, m) for r in range(8) for m, own in enumerate(at)
        if context[r] == context[own] and abs(position[r] - position[own]) <= 2
    }  # fmt: skip
    assert sorted(zip(row.tolist(), sample.tolist(), strict=True)) == sorted(expected)


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    sparse = SparseActivations(latents=10, folder=tmp_path)
    sparse.add(np.arange(1000), np.arange(1000) % 10, np.ones(1000, np.float32))
    with file_size_limit(6000), pytest.raises(OSError, match="File too large"):
        sparse.by_latent()
