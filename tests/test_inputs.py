"""What a study finds on disk: a change there is seen, and what is missing is said before any job."""

from pathlib import Path

import datasets
import pytest
from test_config import changed

from ontogeny.config.corpus import FilesCorpus, PretrainedTokenizer, SavedCorpus
from ontogeny.config.load import load_study
from ontogeny.config.texts import corpus_files, tokenizer_files
from ontogeny.errors import UserError


def contents(files: list[str]) -> list[bytes]:
    return [Path(file).read_bytes() for file in files]


def test_patterns_name_files_once_and_no_folder(tmp_path: Path) -> None:
    for name in ("deep/deeper/b.txt", "deep/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    patterns = (f"{tmp_path}/**", f"{tmp_path}/deep/a.txt")
    found = corpus_files(FilesCorpus(source="files", format="text", paths=patterns))
    assert found == [f"{tmp_path}/deep/a.txt", f"{tmp_path}/deep/deeper/b.txt"]


@pytest.mark.parametrize("split", [None, "test"])
def test_other_rows_in_a_split_change_a_file_that_is_followed(tmp_path: Path, split: str | None) -> None:
    corpus = SavedCorpus(source="saved", path=str(tmp_path), split=split)
    train, test, other = (datasets.Dataset.from_dict({"text": [text]}) for text in ("a", "b", "c"))
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path))
    files = corpus_files(corpus)
    before = contents(files)
    datasets.DatasetDict({"train": train, "test": other}).save_to_disk(str(tmp_path))
    assert corpus_files(corpus) == files
    assert contents(files) != before
    assert any("train" in file for file in files) == (split is None)


def test_a_saved_dataset_without_splits_is_followed(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path))
    corpus = SavedCorpus(source="saved", path=str(tmp_path))
    assert {Path(file).name for file in corpus_files(corpus)} == {"state.json", "dataset_info.json"}


def test_a_local_tokenizer_is_followed_and_the_hubs_is_not(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    found = tokenizer_files(PretrainedTokenizer(source="pretrained", name=str(tmp_path)))
    assert found == [f"{tmp_path}/tokenizer.json", f"{tmp_path}/tokenizer_config.json"]
    assert tokenizer_files(PretrainedTokenizer(source="pretrained", name="EleutherAI/pythia-160m")) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/none", "there is no folder {folder}/none; expected one, or an id of the Hugging Face hub"),
        ("{folder}", "no fast tokenizer in '{folder}'; expected a tokenizer.json"),
    ],
)
def test_a_missing_tokenizer_is_named_before_any_job(tmp_path: Path, name: str, message: str) -> None:
    tokenizer = {"source": "pretrained", "name": name.format(folder=tmp_path)}
    with pytest.raises(UserError) as error:
        load_study(changed("tokenizer", value=tokenizer))
    assert f"config.yaml: tokenizer.name: {message.format(folder=tmp_path)}" in str(error.value)


def test_a_tokenizer_of_the_hub_is_taken_on_trust() -> None:
    for name in ("gpt2", "EleutherAI/pythia-160m"):
        load_study(changed("tokenizer", value={"source": "pretrained", "name": name}))
