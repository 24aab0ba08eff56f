"""An edit that changes what a command does changes its hash, and nothing else does."""

from pathlib import Path

import pytest

from ontogeny import code_hash as subject

SCRIPT = "from ontogeny.trainer import fit\n\nfit(3)\n"
TRAINER = '''"""Trains."""

from typing import NamedTuple

from ontogeny import loss


class Result(NamedTuple):
    value: float
    """What came out."""


def fit(steps: int) -> float:
    """Fit."""
    return loss.total(steps)  # sums
'''


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    package = tmp_path / "ontogeny"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "train.py").write_text(SCRIPT)
    (package / "trainer.py").write_text(TRAINER)
    (package / "loss.py").write_text("def total(steps):\n    return steps * 2\n")
    (package / "unused.py").write_text("VALUE = 1\n")
    return tmp_path


def _hash(scripts: Path) -> str:
    subject._tree.cache_clear()
    subject._meaning.cache_clear()
    subject._imports.cache_clear()
    subject._files.cache_clear()
    return subject.code_hash(scripts, "train.py")


def _edit(scripts: Path, file: str, before: str, after: str) -> None:
    path = scripts / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("train.py", "fit(3)", "fit(4)"),
        ("ontogeny/trainer.py", "total(steps)", "total(steps + 1)"),
        ("ontogeny/trainer.py", "value: float", "value: int"),
        ("ontogeny/loss.py", "* 2", "* 3"),
        ("ontogeny/__init__.py", "", "import os\n"),
    ],
)
def test_edit_of_what_runs_changes_the_hash(scripts: Path, file: str, before: str, after: str) -> None:
    first = _hash(scripts)
    _edit(scripts, file, before, after)
    assert _hash(scripts) != first


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("ontogeny/trainer.py", '"""Trains."""', '"""Trains well."""'),
        ("ontogeny/trainer.py", '"""What came out."""', '"""The loss."""'),
        ("ontogeny/trainer.py", "# sums", "# adds up"),
        ("ontogeny/trainer.py", "steps: int) -> float", "steps: float) -> int"),
        (
            "ontogeny/trainer.py",
            "from typing import NamedTuple",
            "from typing import TYPE_CHECKING, NamedTuple\n\nif TYPE_CHECKING:\n    from ontogeny import unused",
        ),
        ("ontogeny/loss.py", "def total", "\n\ndef total"),
        ("ontogeny/unused.py", "1", "2"),
    ],
)
def test_remark_changes_nothing(scripts: Path, file: str, before: str, after: str) -> None:
    first = _hash(scripts)
    _edit(scripts, file, before, after)
    assert _hash(scripts) == first


@pytest.mark.parametrize(
    "block",
    [
        "def late():\n    from ontogeny import unused",
        "try:\n    pass\nexcept OSError:\n    import ontogeny.unused",
        "while False:\n    pass\nelse:\n    from ontogeny.unused import VALUE",
        "match 1:\n    case 1:\n        from ontogeny import unused",
        "async def late(value: int) -> None:\n    with open(value):\n        from ontogeny import unused",
    ],
)
def test_an_import_counts_wherever_it_stands(scripts: Path, block: str) -> None:
    _edit(scripts, "ontogeny/loss.py", "def total", f"{block}\n\n\ndef total")
    first = _hash(scripts)
    _edit(scripts, "ontogeny/unused.py", "1", "2")
    assert _hash(scripts) != first


def test_module_named_at_run_time_counts_when_it_is_given(scripts: Path) -> None:
    plain = subject.code_hash(scripts, "train.py")
    assert subject.code_hash(scripts, "train.py", "ontogeny.unused") != plain
    files = [file.name for file in subject.closure(scripts, "train.py", "ontogeny.unused")]
    assert files == ["__init__.py", "loss.py", "trainer.py", "unused.py", "train.py"]


def test_files_that_are_no_modules_have_a_hash_of_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    page = tmp_path / "templates/page.html"
    page.write_text("a")
    first = subject.hash_of_files(tmp_path / "templates")
    page.touch()
    assert subject.hash_of_files(tmp_path / "templates") == first
    page.write_text("b")
    assert subject.hash_of_files(tmp_path / "templates") != first
    page.write_text("a")
    page.rename(tmp_path / "templates/other.html")
    assert subject.hash_of_files(tmp_path / "templates") != first
