"""Questions about a feature, answered from the cache as far as they were answered before."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from ontogeny.interpretation.cache import Cache
from ontogeny.interpretation.prompts import (
    DETECT,
    FUZZ,
    MalformedAnswerError,
    Message,
    Rating,
    Window,
    corrected,
    decision_messages,
    explanation_messages,
    read_decisions,
    read_rating,
)
from ontogeny.interpretation.windows import DETECTION, FUZZING

ATTEMPTS = 3
"""How often a question is asked whose answers cannot be read."""

CUT_OFF = "cut off at interpretation.max_tokens"
"""What is wrong with an answer that the server did not let end."""

ValueT = TypeVar("ValueT")

TEMPLATES = {DETECTION: DETECT, FUZZING: FUZZ}
"""Tests of an explanation, and how each is asked."""


class Subject(NamedTuple):
    """A feature and its windows."""

    feature: int
    """Its number."""
    examples: tuple[Window, ...]
    """Windows from which it is explained."""
    tests: dict[str, tuple[Window, ...]]
    """Windows asked about, by test, in order; of each test some are true and some are not."""
    truth: dict[str, tuple[bool, ...]]
    """The right answers, by test."""


class Question(NamedTuple, Generic[ValueT]):
    """What is asked, and how the answer is read."""

    messages: list[Message]
    """The question."""
    read: Callable[[str], ValueT]
    """Reads an answer, or raises `MalformedAnswerError`."""


class Reply(NamedTuple, Generic[ValueT]):
    """How far a question has come: one of `value`, `unasked` and `problem` is given."""

    answers: int
    """Answers that were found, those that cannot be read among them."""
    value: ValueT | None = None
    """What was answered."""
    unasked: list[Message] | None = None
    """What is to be asked next: the question, after answers that could not be read."""
    problem: str | None = None
    """What was wrong with the last answer, where the question was asked so often in vain that it is given up."""


def explanation_question(subject: Subject) -> Question[Rating]:
    """Ask what a feature stands for."""
    return Question(explanation_messages(subject.examples), read_rating)


def decision_question(subject: Subject, test: str, explanation: str) -> Question[list[bool]]:
    """Ask which windows of a test the explanation fits."""
    windows = subject.tests[test]
    return Question(
        decision_messages(TEMPLATES[test], explanation, windows), lambda answer: read_decisions(answer, len(windows))
    )


def replay(cache: Cache, question: Question[ValueT]) -> Reply[ValueT]:
    """Follow a question through the cache, as far as it was asked."""
    messages, problem = question.messages, ""
    for attempt in range(ATTEMPTS):
        answer = cache.find(messages)
        if answer is None:
            return Reply(attempt, unasked=messages)
        try:
            return Reply(attempt + 1, value=question.read(answer.text))
        except MalformedAnswerError as error:
            problem = CUT_OFF if answer.finish_reason == "length" else str(error)
            messages = corrected(messages, answer.text, error)
    return Reply(ATTEMPTS, problem=problem)
