"""A tokenizer is a Hugging Face folder that any tool can load, and its special token is never mistaken for text."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from ontogeny.config.corpus import CorpusSettings, PretrainedTokenizer, TrainedTokenizer
from ontogeny.corpus import write_corpus
from ontogeny.errors import UserError
from ontogeny.splits import read_split
from ontogeny.tokenizer import read_tokenizer
from ontogeny.tokenizer_training import write_tokenizer

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
VOCABULARY = ["the", "<s>", "</s>", "a", "<|endoftext|>", "[UNK]"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small corpus of real text and return its manifest."""
    manifest = tmp_path_factory.mktemp("text") / "corpus/manifest.json"
    settings = json.dumps({"source": "package", "max_documents": 12})
    write_corpus(TypeAdapter(CorpusSettings).validate_json(settings), 0, manifest, None)
    return manifest


@pytest.fixture(scope="session")
def trained(corpus: Path) -> Path:
    """Train a tokenizer of 600 entries and return its tokenizer.json."""
    file = corpus.parent.parent / "tokenizer/tokenizer.json"
    write_tokenizer(TrainedTokenizer(source="train", vocab_size=600), corpus, file, None)
    return file


def pretrained(folder: Path, **files: dict[str, Any]) -> Path:
    """Lay out a pretrained tokenizer with a vocabulary of words, and JSON files beside it by their stems."""
    folder.mkdir()
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    for stem, value in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(value))
    return folder


def copied(source: Path) -> Path:
    file = source.parent / "copy/tokenizer.json"
    write_tokenizer(PretrainedTokenizer(source="pretrained", name=str(source)), source, file, None)
    return file


def test_transformers_loads_the_folder_and_agrees_on_every_id(trained: Path, corpus: Path) -> None:
    ours, theirs = read_tokenizer(trained), AutoTokenizer.from_pretrained(trained.parent)
    assert theirs.bos_token_id == theirs.eos_token_id == ours.bos_id == 0
    assert len(theirs) == ours.vocab_size == 600
    for text in read_split(corpus, "heldout")["text"]:
        ids = ours.tokenizer.encode(text, add_special_tokens=False).ids
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs.decode(ids) == text


def test_every_text_comes_back_from_its_ids(trained: Path) -> None:
    tokenizer = read_tokenizer(trained).tokenizer
    for text in (" lead", "tail \n\n", "naïve 東京 🦉", "a\x00b\x7f", "\r\n\t", "don't 1790's ,"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_text_that_spells_the_special_token_is_text(trained: Path) -> None:
    tokenizer = read_tokenizer(trained).tokenizer
    for text in ("<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> "):
        ids = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        assert 0 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_training_sees_no_heldout_document(tmp_path: Path) -> None:
    words = [f"{letter * 3}word" for letter in "abcdefghij"]
    (tmp_path / "words.txt").write_text("\n".join(f"{word} " * 50 for word in words))
    source = {"source": "files", "format": "text", "paths": [str(tmp_path / "words.txt")], "document": "line"}
    manifest = tmp_path / "corpus/manifest.json"
    write_corpus(TypeAdapter(CorpusSettings).validate_json(json.dumps({**source, "heldout": 0.3})), 0, manifest, None)
    file = tmp_path / "tokenizer/tokenizer.json"
    write_tokenizer(TrainedTokenizer(source="train", vocab_size=1000), manifest, file, None)
    known = {word for word in words if read_tokenizer(file).tokenizer.token_to_id(word) is not None}
    assert known == {text.split()[0] for text in read_split(manifest, "train")["text"]}
    assert len(known) == 7


def test_a_short_text_gives_the_entries_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "words.txt").write_text("ab ab\nab ab")
    source = {"source": "files", "format": "text", "paths": [str(tmp_path / "words.txt")], "document": "line"}
    manifest = tmp_path / "corpus/manifest.json"
    write_corpus(TypeAdapter(CorpusSettings).validate_json(json.dumps(source)), 0, manifest, None)
    write_tokenizer(TrainedTokenizer(source="train"), manifest, tmp_path / "tokenizer/tokenizer.json", None)
    vocab_size = read_tokenizer(tmp_path / "tokenizer/tokenizer.json").vocab_size
    assert 257 < vocab_size < 265
    assert f"{vocab_size} entries only, not 4096 (tokenizer.vocab_size)" in caplog.text


def test_training_gives_the_same_bytes_on_any_number_of_threads(corpus: Path, tmp_path: Path) -> None:
    for threads in ("1", "3"):
        command = [sys.executable, str(SCRIPTS / "tokenizer.py"), "--threads", threads]
        command += ["--settings", '{"source": "train", "vocab_size": 600}', "--corpus", str(corpus)]
        command += ["--out", str(tmp_path / threads / "tokenizer.json"), "--log", str(tmp_path / "log")]
        subprocess.run(command, check=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "manifest.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


@pytest.mark.parametrize(
    ("files", "token"),
    [
        ({"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>"}}, "<s>"),
        ({"tokenizer_config": {"bos_token": {"content": "<s>", "lstrip": False}}}, "<s>"),
        ({"tokenizer_config": {"bos_token": None, "eos_token": "</s>"}}, "</s>"),
        ({"tokenizer_config": {"bos_token": None}, "special_tokens_map": {"bos_token": "<s>"}}, "<s>"),
        ({"tokenizer_config": {"eos_token": "the"}}, "the"),
        ({"config": {"bos_token_id": 1, "eos_token_id": 2}}, "<s>"),
        ({"config": {"bos_token_id": 0}}, "the"),
        ({"config": {"bos_token_id": None, "eos_token_id": 2}}, "</s>"),
    ],
)
def test_a_pretrained_tokenizer_keeps_its_ids_and_gets_a_first_token(
    tmp_path: Path, files: dict[str, dict[str, Any]], token: str
) -> None:
    source = pretrained(tmp_path / "source", **files)
    file = copied(source)
    assert file.read_bytes() == (source / "tokenizer.json").read_bytes()
    tokenizer, theirs = read_tokenizer(file), AutoTokenizer.from_pretrained(file.parent)
    assert tokenizer.bos_id == theirs.bos_token_id == VOCABULARY.index(token)
    assert tokenizer.vocab_size == len(theirs) == len(VOCABULARY)
    assert theirs("a the").input_ids == tokenizer.tokenizer.encode("a the").ids == [3, 0]


def test_ids_beyond_the_count_of_entries_are_below_the_vocabulary_size(tmp_path: Path) -> None:
    source = pretrained(tmp_path / "source", tokenizer_config={"bos_token": "<s>"})
    value = json.loads((source / "tokenizer.json").read_text())
    value["model"]["vocab"]["far"] = 70000
    (source / "tokenizer.json").write_text(json.dumps(value))
    assert read_tokenizer(copied(source)).vocab_size == 70001


def test_truncation_of_a_pretrained_tokenizer_cuts_no_document(tmp_path: Path) -> None:
    source = pretrained(tmp_path / "source", tokenizer_config={"bos_token": "<s>"})
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(source / "tokenizer.json"))
    assert len(read_tokenizer(copied(source)).tokenizer.encode("a " * 6).ids) == 6


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has neither a BOS nor an EOS token"),
        ({"config": {"bos_token_id": 99}}, "has neither a BOS nor an EOS token"),
        ({"tokenizer_config": {"bos_token": "<none>"}}, "'<none>', which has no id"),
    ],
)
def test_a_pretrained_tokenizer_without_a_first_token_is_one_line(
    tmp_path: Path, files: dict[str, dict[str, Any]], message: str
) -> None:
    source = pretrained(tmp_path / "source", **files)
    with pytest.raises(UserError, match=message) as caught:
        copied(source)
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("data", "message"), [(None, "no fast tokenizer in .*No such file"), (b"{}", "no fast")])
def test_a_folder_without_a_whole_tokenizer_is_one_line(tmp_path: Path, data: bytes | None, message: str) -> None:
    source = pretrained(tmp_path / "source", tokenizer_config={"bos_token": "<s>"})
    (source / "tokenizer.json").unlink()
    if data is not None:
        (source / "tokenizer.json").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        copied(source)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_the_hub_out_of_reach_is_one_line(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "tokenizer.py"), "--corpus", str(corpus)]
    command += ["--settings", '{"source": "pretrained", "name": "nobody/nothing"}', "--out", "out/tokenizer.json"]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: tokenizer.name: 'nobody/nothing' is no folder and cannot be read from the hub:"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("size", [None, 0, 40])
def test_a_damaged_folder_is_one_line(tmp_path: Path, name: str, size: int | None) -> None:
    folder = pretrained(tmp_path / "tokenizer", tokenizer_config={"bos_token": "<s>", "eos_token": "</s>", "x": 1})
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if size is not None:
        (folder / name).write_bytes(data[:size])
    with pytest.raises(UserError, match=r"no whole tokenizer .*; delete .*tokenizer/ and run again") as caught:
        read_tokenizer(folder / "tokenizer.json")
    assert "\n" not in str(caught.value)
