"""Windows of heldout text in which features fire, or stay silent, for questions to a language model."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ontogeny.config.interpretation import WindowSettings
from ontogeny.evaluation.token_shares import RowFirings
from ontogeny.randomness import generator

Integers = NDArray[np.int64]

EXAMPLE, DETECTION, FUZZING = "example", "detection", "fuzzing"
"""What a window is for."""

NO_BAND = -1


class Cut(NamedTuple):
    """Contexts cut into windows, of which those are kept whose every token was read, by context and place."""

    context: Integers
    """Context of each window (shape: [W])."""
    start: Integers
    """Position of its first token (shape: [W])."""
    stop: Integers
    """Position after its last one (shape: [W])."""
    window_R: Integers
    """Window of each row, -1 where it is in none that is kept (shape: [rows])."""


class Chosen(NamedTuple):
    """A window and what it is for."""

    role: str
    """`example`, `detection` or `fuzzing`."""
    number: int
    """Its place among the windows of the feature for that."""
    window: int
    """Which window."""
    truth: bool | None
    """Detection: whether the feature fires there; fuzzing: whether the marks are right; None for examples."""
    band: int
    """Band of activation from which it was drawn, 0 the weakest; -1 for silent windows and examples."""


def cut_windows(
    context_R: NDArray[np.integer], position_R: NDArray[np.integer], length_C: NDArray[np.integer], tokens: int
) -> Cut:
    """Cut each context into as many windows of equal length, give or take a token, as come nearest to `tokens`.

    Args:
        context_R: context of every row that was read (shape: [rows]).
        position_R: position of every row; no context is read before the first of all of them (shape: [rows]).
        length_C: positions used of every context (shape: [contexts]).
        tokens: tokens of a window.
    """
    first = int(position_R.min())
    usable_C = np.maximum(length_C.astype(np.int64) - first, 1)
    pieces_C = np.maximum(np.rint(usable_C / tokens).astype(np.int64), 1)
    offset_C = np.concatenate([[0], np.cumsum(pieces_C)])
    place_R = position_R.astype(np.int64) - first
    window_R = offset_C[context_R] + ((place_R + 1) * pieces_C[context_R] - 1) // usable_C[context_R]
    context = np.repeat(np.arange(len(length_C)), pieces_C)
    piece = np.arange(offset_C[-1]) - offset_C[context]
    start, stop = (first + usable_C[context] * (piece + step) // pieces_C[context] for step in (0, 1))
    whole = np.bincount(window_R, minlength=len(context)) == stop - start
    number = np.where(whole, np.cumsum(whole) - 1, -1)
    return Cut(context[whole], start[whole], stop[whole], number[window_R])


def strongest_firings(firings: RowFirings, cut: Cut, features: int) -> Iterator[tuple[Integers, NDArray[np.float64]]]:
    """Yield, feature by feature, the windows in which it fires and its largest activation there, strongest first.

    Args:
        firings: activations that are not 0.
        cut: the windows.
        features: number of features, F.
    """
    windows = len(cut.context)
    window_N = cut.window_R[firings.row]
    there = window_N >= 0
    key_K, place_N = np.unique(firings.feature[there] * windows + window_N[there], return_inverse=True)
    largest_K = np.zeros(len(key_K))
    np.maximum.at(largest_K, place_N, firings.activation[there])
    ends = np.searchsorted(key_K, np.arange(features + 1) * windows)
    for feature in range(features):
        own = slice(ends[feature], ends[feature + 1])
        window_K = key_K[own] - feature * windows
        order = np.lexsort((window_K, -largest_K[own]))
        yield window_K[order], largest_K[own][order]


def choose_windows(feature: int, fired_K: Integers, cut: Cut, settings: WindowSettings) -> list[Chosen]:
    """Choose the windows of a feature: examples, and those that are asked about, in an order that tells nothing.

    Examples are the strongest, one of a context, and at most half of all. True windows come from bands of equally many
    windows of what is left, by turns; fuzzing marks half of its windows rightly and half wrongly.

    Args:
        feature: its number, on which draws depend.
        fired_K: windows in which it fires, strongest first (shape: [K]).
        cut: all windows.
        settings: how many.
    """
    _, firsts = np.unique(cut.context[fired_K], return_index=True)
    most = min(settings.examples, (len(fired_K) + 1) // 2)
    examples_E = fired_K[np.sort(firsts)[:most]]
    rest_K = fired_K[~np.isin(fired_K, examples_E)][::-1]
    drawn = _by_turns(rest_K, settings, feature)
    half = settings.tests // 2
    silent = np.setdiff1d(np.arange(len(cut.context)), fired_K)
    random = generator(settings.seed, "silent windows", feature)
    silent_K = random.choice(silent, min(half, len(silent)), replace=False)
    each = min(half, len(drawn) // 2)
    asked = {
        DETECTION: [(w, True, band) for w, band in drawn[:half]] + [(int(w), False, NO_BAND) for w in silent_K],
        FUZZING: [(w, number < each, band) for number, (w, band) in enumerate(drawn[: 2 * each])],
    }
    chosen = [Chosen(EXAMPLE, number, int(w), None, NO_BAND) for number, w in enumerate(examples_E)]
    for role, windows in asked.items():
        order = generator(settings.seed, "order of windows", role, feature).permutation(len(windows))
        chosen += [Chosen(role, number, *windows[place]) for number, place in enumerate(order)]
    return chosen


def _by_turns(rest_K: Integers, settings: WindowSettings, feature: int) -> list[tuple[int, int]]:
    """Shuffle (window, band) within each band and take one from each by turns, the strongest band first."""
    bands = [
        [(int(window), band) for window in generator(settings.seed, "bands", feature, band).permutation(own)]
        for band, own in enumerate(np.array_split(rest_K, settings.bands))
    ]
    turns = range(max(map(len, bands)))
    return [own[turn] for turn in turns for own in reversed(bands) if turn < len(own)]


def activations_at(
    firings: RowFirings, row_N: NDArray[np.integer], feature_N: Integers, features: int
) -> NDArray[np.float64]:
    """Look up activations at pairs of row and feature (shape: [N]); 0 where a feature is silent.

    Args:
        firings: activations that are not 0.
        row_N: rows (shape: [N]).
        feature_N: places of features (shape: [N]).
        features: number of features, F.
    """
    key_K = firings.row * features + firings.feature
    order = np.argsort(key_K, kind="stable")
    wanted_N = row_N.astype(np.int64) * features + feature_N
    place_N = order[np.minimum(np.searchsorted(key_K, wanted_N, sorter=order), len(key_K) - 1)]
    return np.where(key_K[place_N] == wanted_N, firings.activation[place_N], 0.0)
