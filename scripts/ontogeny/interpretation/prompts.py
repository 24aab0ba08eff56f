"""What a language model is asked about a feature, and how its answers are read.

The tests are those of Paulo et al. (2024, arXiv 2410.13928); the scale from 1 to 5 is that of Ge et al. (2025,
arXiv 2509.17196) in other words.
"""

import json
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

Message = dict[str, str]
"""`role` and `content`, as the protocol has them."""

SYSTEM = (
    "You study features of a language model: units that are active on some tokens of a text and silent on all others. "
    "Answer with one JSON object and nothing else."
)

EXPLAIN = """Below are {count} windows of text in which one feature is active. The tokens on which it is most active \
stand between {opening} and {closing}. Windows are JSON strings, which may begin or end within a sentence.

{windows}

Say in one sentence of at most 25 words what the marked tokens, with what stands before them, have in common and other \
text has not. Describe the pattern; do not speak of windows, marks or features. Then rate how complex the pattern is:
1: one word or token, whatever stands around it
2: a few words that belong together, such as forms of one word or names of months, whatever stands around them
3: a word in a fixed phrase, or in one place of a sentence, such as the verb after a plural subject
4: a subject or a manner of speaking that shows only from several words around
5: an idea that can be said in many different words, and that only the whole passage tells
Answer in the form {{"explanation": "...", "complexity": 3}}."""

DETECT = """A feature of a language model was explained like this: {explanation}

Below are {count} windows of text, as JSON strings. Decide for each by itself whether the feature is active on at \
least one of its tokens. It may be so in any number of them.

{windows}

Answer with a key for every window, in the form {form}."""

FUZZ = """A feature of a language model was explained like this: {explanation}

Below are {count} windows of text, as JSON strings, in which some tokens stand between {opening} and {closing}. \
Decide for each by itself whether the marked tokens are those on which the feature is active, or others. They may be \
so in any number of windows.

{windows}

Answer with a key for every window, true where the marks are right, in the form {form}."""

AnswerT = TypeVar("AnswerT")

LONGEST = 1000
"""Characters of an explanation at most."""

FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)

THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
"""What models that reason say before they answer, where the server does not take it away."""


class Window(NamedTuple):
    """A window of text."""

    texts: tuple[str, ...]
    """Its tokens."""
    marks: tuple[bool, ...]
    """Which of them are marked."""


class Marks(NamedTuple):
    """What stands before and after marked tokens."""

    opening: str
    closing: str


MARKS = (Marks("<<", ">>"), Marks("[[", "]]"), Marks("{{", "}}"), Marks("\u00ab", "\u00bb"))
"""Marks to choose from, in this order."""


class Rating(BaseModel):
    """What a feature stands for."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    explanation: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST)]
    """A sentence."""
    complexity: Annotated[int, Field(ge=1, le=5)]
    """From 1, a token, to 5, an idea."""


class MalformedAnswerError(Exception):
    """An answer that has not the form that was asked for; its text says what is wrong."""


def explanation_messages(windows: Sequence[Window]) -> list[Message]:
    """Ask what examples have in common, and how complex that is."""
    chosen = marks_for(windows)
    return _messages(EXPLAIN.format(count=len(windows), windows=_listed(windows, chosen), **chosen._asdict()))


def decision_messages(template: str, explanation: str, windows: Sequence[Window]) -> list[Message]:
    """Ask which windows an explanation fits.

    Args:
        template: `DETECT` or `FUZZ`.
        explanation: of the feature.
        windows: in the order of their numbers.
    """
    quoted = json.dumps(explanation, ensure_ascii=False)
    form = json.dumps(dict(zip(("1", "2"), (True, False), strict=True)))
    chosen = marks_for(windows)
    filled = {"explanation": quoted, "count": len(windows), "windows": _listed(windows, chosen), "form": form}
    return _messages(template.format(**filled, **chosen._asdict()))


def marks_for(windows: Sequence[Window]) -> Marks:
    """Choose marks of signs that no window has; where there are none, longer ones than any run of that sign."""
    text = "".join(token for window in windows for token in window.texts)
    free = [marks for marks in MARKS if not set("".join(marks)) & set(text)]
    longest = max(map(len, re.findall("<+|>+", text)), default=0)
    return free[0] if free else Marks("<" * (longest + 1), ">" * (longest + 1))


def corrected(messages: Sequence[Message], answer: str, problem: MalformedAnswerError) -> list[Message]:
    """Ask again after an answer that could not be read."""
    again = (
        f"That answer cannot be read: {problem}. Answer with one JSON object of the form asked for, and nothing else."
    )
    said = answer if answer.strip() else "(nothing)"
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": again}]


def read_rating(answer: str) -> Rating:
    """Read an explanation and its complexity.

    Raises:
        MalformedAnswerError: the answer is anything else than that.
    """
    return _read(answer, TypeAdapter(Rating))


def read_decisions(answer: str, windows: int) -> list[bool]:
    """Read what was decided of each window, in order.

    Raises:
        MalformedAnswerError: the answer is anything else than one decision for each.
    """
    said = _read(answer, TypeAdapter(dict[str, bool]))
    numbers = [str(number + 1) for number in range(windows)]
    if set(said) != set(numbers):
        raise MalformedAnswerError(f"its keys are not the numbers of the windows, 1 to {windows}")
    return [said[number] for number in numbers]


def _read(answer: str, kind: TypeAdapter[AnswerT]) -> AnswerT:
    """Read an answer that is one JSON object, after a thought or not, in a fence of code or not, each key once."""
    thought = THOUGHT.match(answer)
    answer = answer[thought.end() :] if thought else answer
    fenced = FENCE.fullmatch(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer, object_pairs_hook=_unique)
        return kind.validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        raise MalformedAnswerError(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    except (ValueError, RecursionError):
        # Python refuses numbers of thousands of digits, and brackets within brackets without end, as well.
        raise MalformedAnswerError("it is no JSON") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise MalformedAnswerError("a key is given twice")
    return dict(pairs)


def _messages(question: str) -> list[Message]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def _listed(windows: Sequence[Window], chosen: Marks) -> str:
    return "\n".join(
        f"{number}: {json.dumps(_text(window, chosen), ensure_ascii=False)}" for number, window in enumerate(windows, 1)
    )


def _text(window: Window, chosen: Marks) -> str:
    """Join tokens, with stretches of marked ones between the marks."""
    text, inside = "", False
    for token, marked in zip(window.texts, window.marks, strict=True):
        text += (chosen.opening if marked else chosen.closing) * (marked != inside) + token
        inside = marked
    return text + chosen.closing * inside
