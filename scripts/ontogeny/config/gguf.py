"""GGUF files: one file that holds a model and its tokenizer, as llama.cpp reads it."""

import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field

from ontogeny.config.base import Settings

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How `struct` reads the types of metadata that are numbers; 8 is text and 9 a list."""

TEXT, LIST = 8, 9


class GgufFile(Settings):
    """A file on disk, or one that an installed Python package carries."""

    path: str
    """The GGUF file; relative to the folder of `package` where that is given."""
    package: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    """Installed Python package that carries the file, by the name under which it is imported; nothing of it is run."""

    def file(self) -> Path:
        """Find the file, which may not exist.

        Raises:
            ValueError: the package is not installed.
        """
        spec = find_spec(self.package) if self.package else None
        folders = spec.submodule_search_locations if spec else None
        if self.package and not folders:
            raise ValueError(f"there is no package {self.package!r} here; install it, or give path alone")
        return Path(folders[0], self.path) if folders else Path(self.path)

    def problems(self, where: str) -> Iterator[str]:
        """Say what is missing on disk; `where` is the place of these settings in the study."""
        try:
            file = self.file()
        except ValueError as error:
            yield f"{where}.package: {error}"
            return
        try:
            gguf_numbers(file)
        except ValueError as error:
            yield f"{where}.path: {error}"


def gguf_numbers(file: Path) -> dict[str, int | float | str]:
    """Read the metadata of a GGUF file that are numbers or texts, up to those of its tokenizer.

    Raises:
        ValueError: there is no such file, or it is no GGUF file (names it).
    """
    try:
        with file.open("rb") as stream:
            return dict(_metadata(stream))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); expected a GGUF file") from None
    except (struct.error, UnicodeDecodeError, KeyError, EOFError):
        raise ValueError(f"{file} is no GGUF file; expected one as llama.cpp reads it") from None


def _metadata(stream: BinaryIO) -> Iterator[tuple[str, int | float | str]]:
    magic, version, _tensors, count = struct.unpack("<4sIQQ", stream.read(24))
    if magic != b"GGUF" or version < 2:
        raise EOFError
    for _ in range(count):
        key = _text(stream)
        if key.startswith("tokenizer."):
            return
        value = _value(stream, *struct.unpack("<I", stream.read(4)))
        if value is not None:
            yield key, value


def _value(stream: BinaryIO, kind: int) -> int | float | str | None:
    """Read a value, or pass over a list."""
    if kind == TEXT:
        return _text(stream)
    if kind == LIST:
        items, length = struct.unpack("<IQ", stream.read(12))
        for _ in range(length):
            _value(stream, items)
        return None
    form = "<" + NUMBERS[kind]
    number: int | float = struct.unpack(form, stream.read(struct.calcsize(form)))[0]
    return number


def _text(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", stream.read(8))
    return stream.read(length).decode()
