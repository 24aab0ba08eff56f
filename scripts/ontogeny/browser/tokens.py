"""Tokens as they are shown: text that can be seen, shaded by activation."""

from collections.abc import Sequence
from dataclasses import dataclass

from ontogeny.browser.quantities import number

SIGNS = {"\n": "↵", "\r": "␍", "\t": "⇥"}
"""What stands for characters that would break a line of tokens."""


@dataclass(frozen=True)
class Token:
    """A token of a text."""

    text: str
    """Its text."""
    share: float
    """Activation over the largest of the feature, from 0 to 1."""
    title: str
    """What is said of it in words."""


def visible(text: str) -> str:
    """Replace characters that cannot be seen; the spaces of words stay."""
    for sign, shown in SIGNS.items():
        text = text.replace(sign, shown)
    return text if text else "∅"


def shaded(texts: Sequence[str], activations: Sequence[float | None], largest: float) -> tuple[Token, ...]:
    """Shade tokens by activation.

    Args:
        texts: of the tokens (T).
        activations: at them, None where it was not read (T).
        largest: activation of the darkest shade.
    """
    return tuple(
        Token(
            visible(text),
            round(min(max((activation or 0.0) / largest, 0.0), 1.0), 3) if largest > 0 else 0.0,
            "not read" if activation is None else number(activation),
        )
        for text, activation in zip(texts, activations, strict=True)
    )
