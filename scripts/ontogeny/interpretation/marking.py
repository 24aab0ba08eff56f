"""Which tokens of a window are marked, rightly or wrongly."""

import re

import numpy as np
from numpy.typing import NDArray

from ontogeny.interpretation.windows import DETECTION, FUZZING, Chosen
from ontogeny.randomness import generator

MARKED = 0.5
"""Tokens are marked where the feature is at least so active as this share of its most active token in the window."""

ORDERS = 20
"""Orders in which runs of wrong marks are tried to be placed."""


def marks(activation_T: NDArray[np.float64], chosen: Chosen, seed: int, feature: int) -> NDArray[np.bool_]:
    """Mark the tokens of a window (shape: [T]): none for detection; else those on which the feature is active.

    Wrong marks come in runs as long as the right ones, on tokens on which the feature is silent, so that their shape
    does not tell them. A window of fuzzing that has no room for them has no marks at all, right ones neither.

    Args:
        activation_T: activation of every token (shape: [T]).
        chosen: what the window is for.
        seed: of wrong marks.
        feature: number of the feature.
    """
    nothing_T = np.zeros(len(activation_T), bool)
    if chosen.role == DETECTION:
        return nothing_T
    right_T: NDArray[np.bool_] = (activation_T > 0) & (activation_T >= MARKED * activation_T.max())
    if chosen.role != FUZZING:
        return right_T
    random = generator(seed, "wrong marks", feature, chosen.window)
    wrong_T = wrong_marks(right_T, activation_T == 0, random)
    return right_T if chosen.truth and wrong_T.any() else wrong_T


def wrong_marks(
    right_T: NDArray[np.bool_], silent_T: NDArray[np.bool_], random: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark silent tokens in runs as long as those of the right marks, in an order and at places by chance.

    Args:
        right_T: right marks (shape: [T]).
        silent_T: tokens that may be marked (shape: [T]).
        random: draws the order, and the places among all that there are for it.

    Returns:
        (shape: [T]); no marks where no order that was tried fits.
    """
    wrong_T = np.zeros(len(right_T), bool)
    for _ in range(ORDERS):
        lengths = random.permutation(run_lengths(right_T)).tolist()
        for start, length in zip(_places(lengths, silent_T, random), lengths, strict=False):
            wrong_T[start : start + length] = True
        if wrong_T.any():
            break
    return wrong_T


def run_lengths(marks_T: NDArray[np.bool_]) -> list[int]:
    """Measure the runs of marks, from left to right."""
    return [len(run) for run in re.findall(b"\x01+", marks_T.tobytes())]


def _places(lengths: list[int], free_T: NDArray[np.bool_], random: np.random.Generator) -> list[int]:
    """Draw where runs start that do not touch, in this order, all ways alike; nowhere where there is no way."""
    tokens, runs = len(free_T), len(lengths)
    # ways[j][t]: in how many ways the runs from j on have room from token t on.
    ways = [[0] * (tokens + 2) for _ in lengths] + [[1] * (tokens + 2)]
    fits = [[t + n <= tokens and bool(free_T[t : t + n].all()) for t in range(tokens)] for n in lengths]
    for j in reversed(range(runs)):
        for t in reversed(range(tokens)):
            ways[j][t] = ways[j][t + 1] + (ways[j + 1][t + lengths[j] + 1] if fits[j][t] else 0)
    starts: list[int] = []
    t = 0
    while ways[0][0] and len(starts) < runs:
        j = len(starts)
        if random.random() * ways[j][t] >= ways[j][t + 1]:
            starts.append(t)
            t += lengths[j] + 1
        else:
            t += 1
    return starts
