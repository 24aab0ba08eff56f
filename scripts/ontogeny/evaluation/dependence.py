"""What a feature's activation depends on beyond tokens: repetitions, and how much of the context."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.command import progress
from ontogeny.config.evaluation import FeatureTypeSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.reading import ROWS_AT_ONCE, encoded, read_activations
from ontogeny.randomness import generator
from ontogeny.tokens import Tokens


class Copies(NamedTuple):
    """Mean activations over the same number of positions, (F,) each."""

    first: NDArray[np.float64]
    """On random tokens."""
    second: NDArray[np.float64]
    """On the copy that follows them."""
    fresh: NDArray[np.float64]
    """On the same tokens at the positions of the copy, after other tokens."""
    firings: NDArray[np.int64]
    """Positions of copies on which the feature fires."""
    positions: int
    """Positions in each mean."""


class Samples(NamedTuple):
    """Where features fire, (M,) each."""

    feature: NDArray[np.int64]
    """The feature."""
    context: NDArray[np.int64]
    """Index of the context."""
    position: NDArray[np.int64]
    """Position within it."""
    activation: NDArray[np.float64]
    """Activation in full context."""


def random_copies(tokens: Tokens, settings: FeatureTypeSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make sequences of BOS, m distinct tokens of the split by chance, and m more: a copy of the first, or of others.

    Returns:
        Copies, and controls that end like them but begin with other tokens (shape: [sequences, 1 + 2m] each).

    Raises:
        UserError: contexts or the vocabulary in use are too small to copy two tokens.
    """
    used_CT = np.arange(tokens.tokens.shape[1]) < tokens.length[:, None]
    known = np.setdiff1d(tokens.tokens[used_CT], [tokens.bos_id]).astype(np.int64)
    m = min(settings.copied, (tokens.tokens.shape[1] - 1) // 2, len(known) // 2)
    if m < 2:
        raise UserError(
            f"tokens: contexts of {tokens.tokens.shape[1]} positions with {len(known)} different tokens are too small "
            "to copy two tokens; induction needs at least 5 positions and 4 tokens"
        )
    copies, controls = [], []
    for number in range(settings.sequences):
        first, other = generator(settings.seed, "copied tokens", number).choice(known, (2, m), replace=False)
        copies.append(np.concatenate([[tokens.bos_id], first, first]))
        controls.append(np.concatenate([[tokens.bos_id], other, first]))
    return np.stack(copies), np.stack(controls)


def read_copies(
    crosscoder: Crosscoder,
    checkpoints: Checkpoints,
    sequences: tuple[NDArray[np.int64], NDArray[np.int64]],
    chosen_F: NDArray[np.int64],
) -> Copies:
    """Measure features on copies of random tokens.

    The first token of a half is left out everywhere: what comes before it in a copy does not repeat.

    Args:
        crosscoder: the dictionary.
        checkpoints: the models of all sites.
        sequences: from `random_copies`.
        chosen_F: features.
    """
    m = sequences[0].shape[1] // 2
    copy_BPF, control_BPF = (
        _activations(crosscoder, checkpoints, tokens_BT, 2 * m, chosen_F) for tokens_BT in sequences
    )
    second_BPF = copy_BPF[:, m + 1 :]
    first_F, second_F, fresh_F = (
        part_BPF.mean((0, 1)).numpy() for part_BPF in (copy_BPF[:, 1:m], second_BPF, control_BPF[:, m + 1 :])
    )
    firings_F = (second_BPF > 0).sum((0, 1)).numpy()
    return Copies(first_F, second_F, fresh_F, firings_F, len(second_BPF) * (m - 1))


def _activations(
    crosscoder: Crosscoder,
    checkpoints: Checkpoints,
    tokens_BT: NDArray[np.int64],
    last: int,
    chosen_F: NDArray[np.int64],
) -> Tensor:
    """Compute activations of features at the last P positions of contexts (shape: [B, P, F])."""
    x_BPSD = read_activations(crosscoder, checkpoints, torch.from_numpy(tokens_BT), last)
    f_NF = torch.cat([f_BL[:, chosen_F].cpu() for f_BL in encoded(crosscoder, x_BPSD.flatten(0, 1))])
    return f_NF.view(len(tokens_BT), last, len(chosen_F)).double()


def induction_scores(copies: Copies) -> NDArray[np.float64]:
    """Compare copies with the larger of their controls: (c - o) / (c + o), 0 for features that are silent, (F,)."""
    other_F = np.maximum(copies.first, copies.fresh)
    score_F = np.zeros(len(other_F))
    np.divide(copies.second - other_F, copies.second + other_F, out=score_F, where=copies.second + other_F > 0)
    return score_F


def context_needed(
    crosscoder: Crosscoder, checkpoints: Checkpoints, tokens: Tokens, samples: Samples, restored: float
) -> NDArray[np.int64]:
    """Find the fewest last tokens of a context, of 1, 2, 4, ..., that restore the activation at its last position.

    A context that is cut keeps BOS in front, and positions start anew. Where n reaches the context's own length nothing
    is cut, and the answer is that length. A sample that n tokens restore is not tried with more.

    Args:
        crosscoder: the dictionary.
        checkpoints: the models of all sites.
        tokens: contexts of the split.
        samples: where features fire, at positions above 0.
        restored: share of the activation in full context that is asked for.

    Returns:
        Tokens, the sample's own included and BOS not (shape: [M]).
    """
    needed_M = samples.position.astype(np.int64).copy()
    open_M = np.arange(len(needed_M))
    lengths = [2**power for power in range(int(tokens.tokens.shape[1]).bit_length())]
    for n in progress(iter(lengths), len(lengths), "lengths of context", lambda _: 1):
        open_M = open_M[samples.position[open_M] > n]
        if not len(open_M):
            continue
        place_BT = samples.position[open_M, None] + np.arange(-n, 1)
        token_BT = tokens.tokens[samples.context[open_M, None], place_BT].astype(np.int64)
        token_BT[:, 0] = tokens.bos_id
        f_B = _last_activations(crosscoder, checkpoints, token_BT, samples.feature[open_M])
        enough_B = f_B >= restored * samples.activation[open_M]
        needed_M[open_M[enough_B]] = n
        open_M = open_M[~enough_B]
    return needed_M


def _last_activations(
    crosscoder: Crosscoder, checkpoints: Checkpoints, token_BT: NDArray[np.int64], feature_B: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compute the activation of one feature at the last position of each context (shape: [B])."""
    x_BSD = read_activations(crosscoder, checkpoints, torch.from_numpy(token_BT), 1)[:, 0]
    parts = zip(
        encoded(crosscoder, x_BSD), torch.split(torch.from_numpy(feature_B)[:, None], ROWS_AT_ONCE), strict=True
    )
    f_B = torch.cat([f_BL.gather(1, own_B1.to(f_BL.device)).cpu()[:, 0] for f_BL, own_B1 in parts])
    return f_B.double().numpy()
