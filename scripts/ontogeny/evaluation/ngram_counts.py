"""How often tokens, and pairs of tokens, occur in the training text, and the predictors that are made of the counts.

A context is read as the model reads it: the tokens that count are those it predicts, at positions 1 to length - 1, and
each makes a bigram with the token before it. So BOS before the first token of a context is a bigram like any other, BOS
itself is never predicted, padding is known by length, and no bigram crosses contexts, hence none crosses documents.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.command import progress
from ontogeny.errors import UserError
from ontogeny.tokens import Tokens

PAIRS_AT_ONCE = 2**24
"""Token positions that are read, and bigrams that wait at least until they are sorted in."""

PSEUDOCOUNT = 0.5
"""What is added to every token's count (Krichevsky and Trofimov 1981), so that no token is impossible."""

DISCOUNT = 0.5
"""Absolute discount where the counts do not tell it: no bigram occurs once, or none occurs twice."""

Integers = NDArray[np.int64]


class NgramCounts(NamedTuple):
    """Counts of the tokens that are predicted and of the bigrams that they end."""

    token_V: Integers
    """Occurrences of each token (shape: [V])."""
    previous_N: Integers
    """First token of each of the N bigrams that occur, ascending (shape: [N])."""
    next_N: Integers
    """Second token of each, ascending among bigrams of one first token (shape: [N])."""
    bigram_N: Integers
    """Occurrences of each bigram (shape: [N])."""

    @property
    def tokens(self) -> int:
        """Tokens counted, as many as bigrams."""
        return int(self.token_V.sum())

    def discount(self) -> float:
        """Estimate the absolute discount: n1 / (n1 + 2 n2), n1 bigrams seen once and n2 twice (Ney et al. 1994)."""
        once, twice = (int((self.bigram_N == times).sum()) for times in (1, 2))
        return once / (once + 2 * twice) if once and twice else DISCOUNT


def count_ngrams(tokens: Tokens, vocabulary: int) -> NgramCounts:
    """Count tokens and bigrams of a split, block by block.

    Memory holds 16 bytes for each bigram that occurs, three times that while blocks are sorted in, and no V x V matrix.

    Args:
        tokens: the split.
        vocabulary: V, all ids of the model, perhaps more than the tokenizer has.

    Raises:
        UserError: the tokenizer has ids that the model has not.
    """
    if tokens.vocab_size > vocabulary:
        raise UserError(
            f"the tokenizer has {tokens.vocab_size} tokens, but the model predicts {vocabulary}; "
            "name the model's own tokenizer in tokenizer"
        )
    token_V = np.zeros(vocabulary, np.int64)
    counted = _Sorted(np.empty(0, np.int64), np.empty(0, np.int64))
    waiting: list[_Sorted] = []
    contexts = max(1, PAIRS_AT_ONCE // tokens.tokens.shape[1])
    for start in progress(range(0, len(tokens.length), contexts), -(-len(tokens.length) // contexts), "blocks"):
        previous_P, next_P = _pairs(tokens, slice(start, start + contexts))
        token_V += np.bincount(next_P, minlength=vocabulary)
        waiting.append(_Sorted(*np.unique(previous_P * vocabulary + next_P, return_counts=True)))
        if sum(len(part.key_N) for part in waiting) > max(PAIRS_AT_ONCE, len(counted.key_N)):
            counted, waiting = _joined([counted, *waiting]), []
    counted = _joined([counted, *waiting])
    return NgramCounts(token_V, *np.divmod(counted.key_N, vocabulary), counted.count_N)


class _Sorted(NamedTuple):
    """Bigrams by their key, v V + w, ascending."""

    key_N: Integers
    count_N: Integers


def _pairs(tokens: Tokens, block: slice) -> tuple[Integers, Integers]:
    """List the bigrams of some contexts: first tokens and second tokens."""
    ids_BT = tokens.tokens[block].astype(np.int64)
    there_BT = np.arange(1, ids_BT.shape[1]) < tokens.length[block, None]
    return ids_BT[:, :-1][there_BT], ids_BT[:, 1:][there_BT]


def _joined(parts: list[_Sorted]) -> _Sorted:
    key, count = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(key, kind="stable")  # finds that the parts are sorted, and merges them
    key, count = key[order], count[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    return _Sorted(key[first], np.add.reduceat(count, first) if len(first) else count)


class NgramPredictor:
    """Next-token probabilities from counts of a text.

    Unigram: q(w) = (c(w) + 1/2) / (N + V/2), where token w comes c(w) times among N. Bigram, by absolute discounting
    interpolated with the unigram (Ney, Essen and Kneser 1994): q(w|v) = max(c(v,w) - d, 0) / c(v) + d n(v) / c(v) q(w),
    where c(v) bigrams begin with v, n(v) different ones; after a token that begins none, q(w|v) = q(w).
    """

    def __init__(self, counts: NgramCounts, device: str | torch.device = "cpu") -> None:
        self.discount, self.device = counts.discount(), torch.device(device)
        self.vocabulary = vocabulary = len(counts.token_V)
        unigram_V = (counts.token_V + PSEUDOCOUNT) / (counts.tokens + PSEUDOCOUNT * vocabulary)
        follow_V = np.bincount(counts.previous_N, counts.bigram_N, vocabulary)
        different_V = np.bincount(counts.previous_N, minlength=vocabulary)
        seen_V = follow_V > 0
        left_V = np.divide(self.discount * different_V, follow_V, out=np.ones(vocabulary), where=seen_V)
        kept_N = np.maximum(counts.bigram_N - self.discount, 0) / follow_V[counts.previous_N]
        self._unigram_V, self._left_V, self._kept_N = (
            torch.from_numpy(values).float().to(device) for values in (unigram_V, left_V, kept_N)
        )
        self._next_N = torch.from_numpy(counts.next_N).to(device)
        self._starts = torch.from_numpy(np.concatenate([[0], np.cumsum(different_V)])).to(device)

    def log_unigram(self) -> Tensor:
        """Compute log q(w) (shape: [V], float32)."""
        return self._unigram_V.log()

    def log_bigram(self, previous_P: Tensor) -> Tensor:
        """Compute log q(w|v).

        Args:
            previous_P: v of each position (shape: [P], int64).

        Returns:
            (shape: [P, V], float32).
        """
        probability_PV = self._left_V[previous_P, None] * self._unigram_V
        first_P, count_P = self._starts[previous_P], self._starts[previous_P + 1] - self._starts[previous_P]
        position_M = torch.repeat_interleave(count_P)
        start_P = count_P.cumsum(0) - count_P
        entry_M = torch.arange(len(position_M), device=previous_P.device) + (first_P - start_P)[position_M]
        probability_PV[position_M, self._next_N[entry_M]] += self._kept_N[entry_M]
        return probability_PV.log_()
