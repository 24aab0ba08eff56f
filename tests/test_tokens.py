"""Contexts hold every token of every document once, and a damaged file is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from tokenizers import Tokenizer, models, pre_tokenizers

from ontogeny.config.corpus import CorpusSettings, TokensSettings, TrainedTokenizer
from ontogeny.contexts import pack, split_contexts, until, write_contexts
from ontogeny.corpus import write_corpus
from ontogeny.errors import UserError
from ontogeny.splits import read_split
from ontogeny.tokenizer import TextTokenizer, read_tokenizer
from ontogeny.tokenizer_training import write_tokenizer
from ontogeny.tokens import Contexts, Tokens, read_tokens, write_tokens

ATTRIBUTES: dict[str, str | int] = {
    "bos_id": 0,
    "vocab_size": 9,
    "context_length": 4,
    "split": "train",
    "tokenizer_hash": "abc",
    "provenance": "{}",
}


class Study:
    """A corpus of lines, with a tokenizer trained on it."""

    def __init__(self, folder: Path, lines: list[str], heldout: float = 0.2) -> None:
        (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
        self.folder = folder
        self.corpus = folder / "corpus/manifest.json"
        self.tokenizer = folder / "tokenizer/tokenizer.json"
        source = {"source": "files", "format": "text", "paths": [str(folder / "lines.txt")], "document": "line"}
        settings = json.dumps({**source, "heldout": heldout})
        write_corpus(TypeAdapter(CorpusSettings).validate_json(settings), 0, self.corpus, None)
        write_tokenizer(TrainedTokenizer(source="train", vocab_size=300), self.corpus, self.tokenizer, None)

    def tokens(self, split: str = "train", **settings: int) -> Tokens:
        out = self.folder / f"tokens/{split}.h5"
        write_contexts(TokensSettings(**settings), split, self.corpus, self.tokenizer, out, None)
        return read_tokens(out)


LINES = [f"{number} fellow citizens of the senate, <|endoftext|> " * (number % 7 + 1) for number in range(30)]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"), LINES)


def packed_one_by_one(documents: list[NDArray[np.uint32]], bos_id: int, length: int) -> list[tuple[int, list[int]]]:
    """Pack by a loop: (document, ids with BOS) of every context."""
    return [
        (number, [bos_id, *ids[start : start + length - 1].tolist()])
        for number, ids in enumerate(documents)
        for start in range(0, len(ids), length - 1)
    ]


@pytest.mark.parametrize("context_length", [2, 3, 8, 50])
@pytest.mark.parametrize("bos_id", [0, 7])
def test_packing_agrees_with_a_loop(context_length: int, bos_id: int) -> None:
    random = np.random.default_rng(0)
    sizes = [0, 1, 2, *random.integers(0, 30, 60), context_length - 1, 2 * (context_length - 1), 0]
    documents = [random.integers(0, 9, size).astype(np.uint32) for size in sizes]
    contexts = pack(documents, bos_id, context_length)
    found = [
        (int(document), row[:length].tolist())
        for row, length, document in zip(contexts.tokens, contexts.length, contexts.document, strict=True)
    ]
    assert found == packed_one_by_one(documents, bos_id, context_length)
    beyond = np.arange(context_length) >= contexts.length[:, None]
    assert not contexts.tokens[beyond].any()


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_contexts_spell_every_document_again(study: Study, split: str) -> None:
    tokens = study.tokens(split, context_length=16)
    tokenizer = read_tokenizer(study.tokenizer).tokenizer
    for number, text in enumerate(read_split(study.corpus, split)["text"]):
        rows = np.flatnonzero(tokens.document == number)
        assert (np.diff(rows) == 1).all()
        ids = [token for row in rows for token in tokens.tokens[row, 1 : tokens.length[row]]]
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert (tokens.length[rows[:-1]] == 16).all()


def test_bos_is_id_0_at_position_0_and_nowhere_else(study: Study) -> None:
    tokens = study.tokens(context_length=16)
    assert tokens.bos_id == 0
    assert (tokens.tokens[:, 0] == 0).all()
    used = np.arange(1, 16) < tokens.length[:, None]
    assert (tokens.tokens[:, 1:][used] != 0).all()


def test_the_attributes_say_what_made_the_file(study: Study) -> None:
    tokens = study.tokens("heldout", context_length=16)
    with h5py.File(study.folder / "tokens/heldout.h5") as file:
        attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in file.attrs.items()}
        assert all(file[name].chunks is None for name in ("tokens", "length", "document"))
        assert [file[name].dtype for name in ("tokens", "length", "document")] == ["uint16", "int32", "int32"]
    assert (attributes["split"], attributes["context_length"], attributes["bos_id"]) == ("heldout", 16, 0)
    assert attributes["vocab_size"] == tokens.vocab_size == 300
    assert attributes["tokenizer_hash"] == read_tokenizer(study.tokenizer).hash
    assert "tokenizers" in json.loads(attributes["provenance"])["versions"]


def test_the_same_text_gives_the_same_bytes_and_other_contexts_another_hash(study: Study) -> None:
    file = study.folder / "tokens/train.h5"
    first, data = study.tokens(context_length=16).hash, file.read_bytes()
    again = study.tokens(context_length=16).hash
    assert data == file.read_bytes()
    assert first == again
    assert first != study.tokens(context_length=17).hash != study.tokens(context_length=16, max_tokens=50).hash


@pytest.mark.parametrize(("contexts", "more", "expected"), [(0, 1, 1), (3, -1, 3), (3, 0, 3), (3, 1, 4)])
def test_max_tokens_stops_at_the_first_context_that_reaches_it(
    study: Study, contexts: int, more: int, expected: int
) -> None:
    every = study.tokens(context_length=16)
    some = study.tokens(context_length=16, max_tokens=int(every.length[:contexts].sum()) + more)
    assert some.tokens.tolist() == every.tokens[:expected].tolist()
    assert some.document.tolist() == every.document[:expected].tolist()


def test_more_max_tokens_than_there_are_take_them_all(study: Study) -> None:
    assert study.tokens(context_length=16, max_tokens=10**6).hash == study.tokens(context_length=16).hash


def test_no_more_text_is_read_once_there_are_enough_tokens() -> None:
    def parts() -> Iterator[Contexts]:
        yield pack([np.arange(5, dtype=np.uint32)], 0, 4)
        raise AssertionError("a second part was read")

    (part,) = until(parts(), 6)
    assert part.length.tolist() == [4, 3]


def test_documents_are_numbered_through_all_batches() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    data = datasets.Dataset.from_dict({"text": ["b"] * 70000})
    parts = list(split_contexts(data, TextTokenizer(tokenizer, 0, 2, ""), 2))
    assert len(parts) > 1
    assert (np.concatenate([part.document for part in parts]) == np.arange(70000)).all()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65535, "uint16"), (65536, "uint32"), (200000, "uint32")])
def test_ids_of_any_vocabulary_survive(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    ids = np.array([0, 1, vocab_size - 1], np.uint32)
    contexts = iter([pack([ids, ids[:1]], 3, 4)])
    counts = write_tokens(tmp_path / "train.h5", contexts, {**ATTRIBUTES, "bos_id": 3, "vocab_size": vocab_size})
    tokens = read_tokens(tmp_path / "train.h5")
    assert tokens.tokens.dtype == dtype
    assert tokens.tokens.tolist() == [[3, 0, 1, vocab_size - 1], [3, 0, 0, 0]]
    assert tokens.length.tolist() == [4, 2]
    assert (tokens.bos_id, tokens.vocab_size) == (3, vocab_size)
    assert counts == {"contexts": 2, "tokens": 6}


def test_a_corpus_shorter_than_one_context_is_one_line(study: Study) -> None:
    out = study.folder / "short/train.h5"
    with pytest.raises(
        UserError, match=r"corpus/train: \d+ tokens with BOS.* too few for one context of 5000"
    ) as caught:
        write_contexts(TokensSettings(context_length=5000), "train", study.corpus, study.tokenizer, out, None)
    assert "\n" not in str(caught.value)
    assert not list(out.parent.iterdir())


def test_a_missing_tokenizer_is_one_line(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/tokenizer\.json: no whole tokenizer"):
        write_contexts(
            TokensSettings(), "train", study.corpus, tmp_path / "none/tokenizer.json", tmp_path / "train.h5", None
        )


def small_file(path: Path) -> Tokens:
    write_tokens(path, iter([pack([np.arange(1, 9, dtype=np.uint32)], 0, 4)]), ATTRIBUTES)
    return read_tokens(path)


def refusal(file: Path) -> str | None:
    """Say why a file is refused, or None."""
    try:
        read_tokens(file)
    except UserError as error:
        return str(error)
    return None


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    file, damaged = tmp_path / "train.h5", tmp_path / "damaged.h5"
    whole, data = small_file(file), file.read_bytes()
    refused = 0
    for place in range(len(data)):
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])
        reason = refusal(damaged)
        if reason is None:
            found = read_tokens(damaged)
            assert found[3:] == whole[3:], place
            assert all(np.array_equal(found[array], whole[array]) for array in range(3)), place
        else:
            assert reason.startswith(str(damaged))
            assert "\n" not in reason
            refused += 1
    assert refused > len(data) // 4


@pytest.mark.parametrize("size", [0, 1, 100, 0.5, -1])
def test_a_short_file_is_one_line(tmp_path: Path, size: float) -> None:
    file = tmp_path / "train.h5"
    small_file(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(size * len(data)) if isinstance(size, float) else size])
    with pytest.raises(UserError, match=r"train\.h5: no whole HDF5 file") as caught:
        read_tokens(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_without_tokens_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.h5: there is no such file"):
        read_tokens(tmp_path / "train.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(UserError, match=r"other\.h5: attribute 'bos_id' is missing"):
        read_tokens(tmp_path / "other.h5")
