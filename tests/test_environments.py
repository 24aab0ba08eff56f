"""The environments of the rules hold the versions that requirements.lock pins."""

from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[1]
PINS = [line.split("==") for line in (PROJECT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
LOCK = {canonicalize_name(name): version for name, version in PINS}


@pytest.mark.parametrize("name", ["cpu", "gpu", "database"])
def test_environment_agrees_with_the_lock(name: str) -> None:
    environment = yaml.safe_load((PROJECT / "envs" / f"{name}.yaml").read_text())
    pins = dict(pin.split("==") for pin in environment["dependencies"][-1]["pip"])
    assert len(pins) > 5
    assert pins == {package: LOCK[canonicalize_name(package)] for package in pins}


def test_lock_holds_what_is_asked_for() -> None:
    lines = (PROJECT / "requirements.in").read_text().splitlines()
    asked = {canonicalize_name(line.split("==")[0]) for line in lines if line and not line.startswith("#")}
    assert asked <= set(LOCK)
