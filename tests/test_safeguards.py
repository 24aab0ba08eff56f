"""Every test that docs/safeguards.md names is there."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_every_safeguard_named_is_a_test() -> None:
    named = set(re.findall(r"`(test_\w+)`", (PROJECT / "docs" / "safeguards.md").read_text()))
    defined = {
        name
        for file in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 50
    assert named <= defined, sorted(named - defined)
