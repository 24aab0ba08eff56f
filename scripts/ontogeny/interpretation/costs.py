"""What questions to a language model cost, before and after they are asked."""

from collections.abc import Sequence
from typing import NamedTuple

from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.interpretation.prompts import Message

CHARACTERS = 4
"""Characters of a token, about, by which questions are measured before anybody has counted their tokens."""

EXPLANATION_TOKENS = 60
"""Tokens of an explanation with its rating, about."""

DECISION_TOKENS = 6
"""Tokens of the decision about one window, about."""

EXPLANATION = "x" * (CHARACTERS * EXPLANATION_TOKENS)
"""Stands for an explanation that is not known yet."""


class Requests(NamedTuple):
    """Questions and what they take."""

    requests: int
    """Questions."""
    input_tokens: int
    """Their tokens."""
    output_tokens: int
    """Tokens of the answers."""

    def plus(self, other: "Requests") -> "Requests":
        """Add others."""
        return Requests(*(mine + its for mine, its in zip(self, other, strict=True)))

    def price(self, settings: InterpretationSettings) -> float | None:
        """Compute what they cost, in the currency of the prices; None where these are not given."""
        if settings.input_price is None or settings.output_price is None:
            return None
        return (self.input_tokens * settings.input_price + self.output_tokens * settings.output_price) / 1e6

    def text(self, settings: InterpretationSettings) -> str:
        """Say them in words: `3 requests, 1,200 tokens of questions and 90 of answers, which cost 0.01`."""
        price = self.price(settings)
        cost = (
            "interpretation.input_price and output_price would tell the cost" if price is None else f"cost {price:.4g}"
        )
        return (
            f"{self.requests:,} requests, {self.input_tokens:,} tokens of questions and {self.output_tokens:,} of "
            f"answers; {cost}"
        )


NOTHING = Requests(0, 0, 0)
"""No question at all."""


def estimate(messages: Sequence[Message], output_tokens: int) -> Requests:
    """Measure a question by its characters."""
    characters = sum(len(message["content"]) for message in messages)
    return Requests(1, -(-characters // CHARACTERS), output_tokens)
