"""From a config file's keys to a study, or to one clear line."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ontogeny.config.presets import with_presets
from ontogeny.config.study import Study
from ontogeny.errors import UserError

JsonSchema: TypeAlias = dict[str, Any]


def read_study(file: Path) -> Study:
    """Read a study from its config file.

    Raises:
        UserError: one line for a file that is missing, is no YAML, or holds no study.
    """
    try:
        config = yaml.safe_load(file.read_bytes())
        check_keys_are_unique(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); expected a study such as config.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no YAML: {' '.join(str(error).split())}") from None
    if config is not None and not isinstance(config, dict):
        raise UserError(f"{file}: it holds no keys; docs/configuration.md lists those of a study")
    return load_study(config or {}, str(file))


def check_keys_are_unique(file: Path) -> None:
    """Refuse a config file that gives a key twice, of which YAML would take the last one without a word.

    Raises:
        UserError: one line that names the key and the line where it is given again.
    """
    for key in _repeated(yaml.compose(file.read_bytes(), yaml.SafeLoader)):
        raise UserError(f"{file}: key {key.value!r} is given twice, again in line {key.start_mark.line + 1}")


def _repeated(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield the keys of a YAML document that are in their mapping already."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield key
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)


def load_study(config: Mapping[str, Any], source: str = "config.yaml") -> Study:
    """Check a config and fill in its defaults.

    Raises:
        UserError: one line that names `source`, the key, what was found and what was expected.
    """
    if not config:
        raise UserError(f"{source}: the config is empty; docs/configuration.md lists its keys")
    config = with_presets(config)
    try:
        return Study.model_validate_json(json.dumps(config))
    except ValidationError as error:
        raise UserError(f"{source}: {_one_line(error, config)}") from None
    except TypeError as error:
        raise UserError(f"{source}: {error}; put quotes around values that YAML reads as dates") from None


def _one_line(error: ValidationError, config: Mapping[str, Any]) -> str:
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    others = len({_place(problem, config) for problem in problems}) - 1
    place = _place(first, config)
    text = f"{place}: {_text(first)}" if place else _text(first)
    return text + (f" (and {others} more)" if others else "")


def _text(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown key{_suggestion(problem['loc'])}"
    if problem["type"] == "missing":
        return "this key is required; docs/configuration.md says what it holds"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "too_short":
        return "expected at least one item, not none"
    found = json.dumps(problem["input"])
    expected = problem["msg"]
    for pydantics, ours in (
        ("valid array", "list"),
        ("valid integer", "whole number"),
        ("a valid ", "a "),
        ("an object", "a section of keys"),
    ):
        expected = expected.replace(pydantics, ours)
    text = f"{expected[0].lower()}{expected[1:]}, not {found if len(found) < 80 else found[:77] + '...'}"
    if problem["type"] == "int_type" and re.fullmatch(r"[\d.]+[eE]\+?\d+", str(problem["input"])):
        return f"{text}; write it out, as in {float(problem['input']):.0f}"
    return text


def _place(problem: ErrorDetails, config: object) -> str:
    """Write a location as `dictionaries.sae.sites[0].hooks`, without pydantic's names for members of unions."""
    place, here, tag = "", config, None
    for depth, part in enumerate(problem["loc"]):
        missing = problem["type"] == "missing" and depth == len(problem["loc"]) - 1
        if part == tag:
            tag = None
        elif isinstance(here, list) and isinstance(part, int):
            place, here = f"{place}[{part}]", here[part]
        elif isinstance(here, Mapping) and (part in here or missing):
            place, here = f"{place}.{part}" if place else str(part), here.get(part)
            tag = here.get("source") if isinstance(here, Mapping) else None
    return place


def _suggestion(location: Sequence[int | str]) -> str:
    close = difflib.get_close_matches(str(location[-1]), sorted(_keys(location[:-1])), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; docs/configuration.md lists the keys"


def _keys(location: Sequence[int | str]) -> set[str]:
    """List the keys of the section at a location, those of all its kinds where it does not say which it is."""
    schema = Study.model_json_schema()
    here: list[JsonSchema] = [schema]
    for part in location:
        here = [inner for section in _sections(here, schema) for inner in _inside(section, part)]
    return {key for section in _sections(here, schema) for key in section.get("properties", ())}


def _sections(here: Iterable[JsonSchema], schema: JsonSchema) -> Iterator[JsonSchema]:
    """Yield schemas, and in place of references and beside unions those that they stand for."""
    for section in here:
        if "$ref" in section:
            yield from _sections([schema["$defs"][section["$ref"].rpartition("/")[2]]], schema)
        else:
            yield section
            yield from _sections([*section.get("oneOf", ()), *section.get("anyOf", ())], schema)


def _inside(section: JsonSchema, part: int | str) -> Iterator[JsonSchema]:
    """Yield the schemas of what is under a key, at a place of a list, or of one kind of a union."""
    kinds = section.get("discriminator", {}).get("mapping", {})
    if part in kinds:
        yield {"$ref": kinds[part]}
    elif isinstance(part, int) and "items" in section:
        yield section["items"]
    elif part in section.get("properties", ()):
        yield section["properties"][part]
    else:
        yield from section.get("patternProperties", {}).values()
