"""The documentation of the config is made from it, and is current."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ontogeny.config.documentation import configuration_page, configuration_schema

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize(
    ("name", "made"), [("configuration.md", configuration_page), ("config.schema.json", configuration_schema)]
)
def test_documentation_of_the_config_is_current(name: str, made: Callable[[], str]) -> None:
    assert (DOCS / name).read_text() == made(), "run `make docs`"


def test_every_row_of_the_documentation_is_one_line_of_four_cells() -> None:
    lines = configuration_page().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
    assert all(row.endswith("|") for row in rows)
    assert not [line for line in lines if line.endswith(" |") and not line.startswith("|")]


def test_every_key_of_the_default_study_is_documented() -> None:
    page = configuration_page()
    for key in (
        "`corpus.heldout`",
        "`models.<name>.checkpoints`",
        "`dictionaries.<name>.sites[].hooks`",
        "`evaluation.nll.tokens`",
    ):
        assert f"| {key} |" in page
