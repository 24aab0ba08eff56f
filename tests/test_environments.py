"""The environments of the rules hold what their rules import, in the versions that requirements.lock pins."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from ontogeny import code_hash
from ontogeny.provenance import provenance

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = PROJECT / "scripts"
PINS = [line.split("==") for line in (PROJECT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
LOCK = {canonicalize_name(name): version for name, version in PINS}

RULE = re.compile(r"^ *rule\b.*?envs/(\w+)\.yaml.*?\bcode\(([^)]*)\)", re.MULTILINE | re.DOTALL)
COMMANDS = sorted(
    {
        (environment, *re.findall(r'"([^"]+)"', code))
        for file in (PROJECT / "rules").glob("*.smk")
        for environment, code in RULE.findall(file.read_text())
    }
)
"""Environment, script and further modules of every rule."""


def pinned(name: str) -> dict[str, str]:
    """Read the packages of an environment with their versions."""
    environment = yaml.safe_load((PROJECT / "envs" / f"{name}.yaml").read_text())
    return dict(pin.split("==") for pin in environment["dependencies"][-1]["pip"])


def imported(file: Path) -> set[str]:
    """Name the packages that a file imports, of whoever made them."""
    nodes = list(ast.walk(code_hash._tree(file)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


def test_every_rule_has_an_environment_and_its_code() -> None:
    rules = sum(
        len(re.findall(r"^ *rule\b", file.read_text(), re.MULTILINE)) for file in (PROJECT / "rules").glob("*.smk")
    )
    assert sum(len(RULE.findall(file.read_text())) for file in (PROJECT / "rules").glob("*.smk")) == rules > 10


@pytest.mark.parametrize(
    ("environment", "script", "modules"), [(name, script, more) for name, script, *more in COMMANDS]
)
def test_environment_holds_what_its_rules_import(environment: str, script: str, modules: list[str]) -> None:
    files = code_hash.closure(SCRIPTS, script, *modules)
    owners = metadata.packages_distributions()
    names = set().union(*map(imported, files)) - {"ontogeny"} - sys.stdlib_module_names
    needed = {canonicalize_name(owners[name][0]) for name in names}
    assert needed <= {canonicalize_name(package) for package in pinned(environment)}


def test_provenance_names_what_is_installed_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontogeny.provenance.PACKAGES", ("numpy", "a-package-of-another-environment"))
    assert provenance(None) == {"versions": f"numpy {metadata.version('numpy')}"}


@pytest.mark.parametrize("name", ["cpu", "gpu", "database"])
def test_environment_agrees_with_the_lock(name: str) -> None:
    pins = pinned(name)
    assert len(pins) > 5
    assert pins == {package: LOCK[canonicalize_name(package)] for package in pins}


def test_lock_holds_what_is_asked_for() -> None:
    lines = (PROJECT / "requirements.in").read_text().splitlines()
    asked = {canonicalize_name(line.split("==")[0]) for line in lines if line and not line.startswith("#")}
    assert asked <= set(LOCK)
