"""The reference of all keys of a study, made from its models."""

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ontogeny.config.base import Settings
from ontogeny.config.study import Study

HEADER = """# Configuration

A study is one YAML file. `config.yaml` is the default study; `snakemake --configfile FILE` runs another one in its
place, with its results in `results/<study>/`. Every key stands below with its type, its default and its meaning; an
unknown key or a wrong type is refused before any job starts. This page is made by `make docs` from the models in
`scripts/ontogeny/config/`, and so is `docs/config.schema.json`, which editors use for completion:

    # yaml-language-server: $schema=docs/config.schema.json

Names chosen by you (of models and dictionaries) stand in angle brackets. What a change reruns is in
[architecture.md](architecture.md).
"""


class _Key(NamedTuple):
    path: str
    kind: str
    default: str
    meaning: str


def configuration_page() -> str:
    """Write the Markdown page that documents every key."""
    parts = [HEADER, *(_section(title, text, keys) for title, text, keys in _sections(Study, ""))]
    return "\n".join(parts)


def configuration_schema() -> str:
    """Write the JSON schema of a config file."""
    return json.dumps(Study.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _section(title: str, text: str, keys: list[_Key]) -> str:
    rows = [f"| {' | '.join(map(_cell, (f'`{key.path}`', *key[1:])))} |" for key in keys]
    return "\n".join(
        [f"## {title}", "", text, "", "| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _cell(text: str) -> str:
    """Write text as a cell of a table: on one line, in which a bar ends no cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _sections(kind: type[Settings], prefix: str) -> Iterator[tuple[str, str, list[_Key]]]:
    """Yield (title, text, keys) of a model and then of every model in it."""
    below: list[tuple[type[Settings], str]] = []
    keys = []
    for name, field in kind.model_fields.items():
        path = f"{prefix}{name}"
        members, suffix = _members(field.annotation)
        below += [(member, f"{path}{suffix}.") for member in members]
        kinds = " or ".join(f"`{_tag(member)}`" for member in members if _tag(member)) or "section"
        keys.append(_Key(path, kinds if members else _type(field), _default(field), field.description or ""))
    title = f"`{prefix.rstrip('.')}`" if prefix else "The study"
    tag = _tag(kind)
    yield f"{title} with `source: {tag}`" if tag else title, " ".join((kind.__doc__ or "").split()), keys
    for member, path in below:
        yield from _sections(member, path)


def _members(annotation: Any) -> tuple[list[type[Settings]], str]:  # noqa: ANN401
    """Find the models in an annotation, and how the path goes on to them."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation], ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _members(arguments[0])
    if origin is dict:
        return _members(arguments[1])[0], ".<name>"
    if origin is tuple:
        members = _members(arguments[0])[0]
        return members, "[]" if members else ""
    if origin in (Union, types.UnionType):
        return [member for argument in arguments for member in _members(argument)[0]], ""
    return [], ""


def _tag(kind: type[Settings]) -> str:
    source = kind.model_fields.get("source")
    return str(get_args(source.annotation)[0]) if source else ""


def _type(field: FieldInfo) -> str:
    return _type_name(field.annotation)


def _type_name(annotation: Any) -> str:  # noqa: ANN401
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is tuple:
        inner = arguments[:1] if arguments[-1] is Ellipsis else arguments
        return "list of " + " and ".join(dict.fromkeys(map(_type_name, inner)))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type_name, arguments))
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, Settings):
        return "see below"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value)}`"
