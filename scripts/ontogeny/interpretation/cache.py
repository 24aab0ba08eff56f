"""Answers that were paid for, on disk."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.errors import UserError
from ontogeny.files import write_json
from ontogeny.interpretation.prompts import Message


class Answer(BaseModel):
    """What a server answered."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    text: str
    """The answer."""
    input_tokens: int
    """Tokens of the question, as the server counted them; 0 where it told none."""
    output_tokens: int
    """Tokens of the answer."""
    finish_reason: str | None = None
    """Why the server ended it; `length` where it was cut off."""


class _Entry(BaseModel):
    """A file of the cache."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    question: str
    answer: Answer
    checksum: str


class Cache:
    """Answers by the hash of model, messages and sampling settings; which server gave them is no part of it."""

    def __init__(self, folder: Path, settings: InterpretationSettings) -> None:
        self._folder = folder
        self._settings = settings

    def check(self) -> None:
        """See that answers can be written, before any is paid for.

        Raises:
            UserError: the folder cannot be made or written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise UserError(
                f"{self._folder}: answers cannot be kept in this folder ({error.strerror}), and would be paid for "
                "again; make it one that can be written and run again"
            ) from None

    def find(self, messages: Sequence[Message]) -> Answer | None:
        """Find the answer to a question; a damaged file is none."""
        question = _hash(request(self._settings, messages))
        try:
            entry = _Entry.model_validate_json(self._file(question).read_bytes())
        except (OSError, ValidationError):
            return None
        there = entry.question == question and entry.checksum == _checksum(entry.answer)
        return entry.answer if there else None

    def keep(self, messages: Sequence[Message], answer: Answer) -> None:
        """Write an answer, whole or not at all.

        Raises:
            UserError: the disk is full.
        """
        question = _hash(request(self._settings, messages))
        entry = _Entry(question=question, answer=answer, checksum=_checksum(answer))
        write_json(self._file(question), entry.model_dump())

    def _file(self, question: str) -> Path:
        return self._folder / question[:2] / f"{question}.json"


def request(settings: InterpretationSettings, messages: Sequence[Message]) -> dict[str, object]:
    """Write what is asked as the protocol has it: all that decides the answer, and no more."""
    sampling = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    told = {name: value for name, value in sampling.items() if value is not None}
    return {"model": settings.model, "messages": list(messages), **told}


def _checksum(answer: Answer) -> str:
    # Answers whose end was not told are those of before it was kept as well.
    return _hash(answer.model_dump(exclude_none=True))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
