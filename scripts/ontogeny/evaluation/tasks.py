"""Tasks with a right and a wrong next token: subject-verb agreement, indirect objects, repetition.

Items come in groups that share their words and differ in what the task is about, so that whoever does not do the task
gains nothing: a model that prefers one verb, one name, or the number of the nearest noun has a mean logit difference of
0 over a group. The measure is that of Marks et al. (2024) and Wang et al. (2022): the logit of the right token minus
that of the wrong one, at the last position.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ontogeny.config.evaluation import TaskSettings
from ontogeny.evaluation.task_words import (
    AGREEING_VERBS,
    GIVING_VERBS,
    MEETING_VERBS,
    NAMES,
    NOUNS,
    PLURALS,
    PREPOSITIONS,
    RELATIVE_VERBS,
    THINGS,
)
from ontogeny.randomness import generator
from ontogeny.tokenizer import TextTokenizer

DRAWS = 200
"""Groups that are drawn at most for every item that is wanted."""

REPEATED, BEGIN, END = 12, 3, 9
"""Random tokens of an induction item, and which of them come again, from and up to."""


class Item(NamedTuple):
    """A text that breaks off before its next word."""

    words: tuple[str, ...]
    """The words so far, each with its leading space."""
    correct: str
    """The word that has to follow."""
    wrong: str
    """The word that must not."""


class Task(NamedTuple):
    """Items of one task as tokens; all are of one length."""

    name: str
    """Name of the task, such as `agreement`."""
    tokens_BT: Tensor
    """BOS and the words, (B, T); the answer follows the last position."""
    correct_B: Tensor
    """The right next token of each item, (B)."""
    wrong_B: Tensor
    """The wrong one, (B)."""
    group_B: Tensor
    """Number of the group that an item belongs to, from 0, (B)."""
    dropped: int
    """Items that were drawn and left out, since a word is not one token or the text is too long."""


Draw = Callable[[np.random.Generator], tuple[Item, ...]]
"""Draws a group of items."""


def make_tasks(tokenizer: TextTokenizer, settings: TaskSettings, context_length: int) -> list[Task]:
    """Make the items of every task; they depend on the tokenizer and the settings alone.

    Args:
        tokenizer: whose tokens the words have to be.
        settings: how many items, and the seed.
        context_length: tokens that the models read at most.

    Returns:
        Tasks in the order of `TASKS`; one whose words are not in the vocabulary has few items, or none.
    """
    lookup = SingleTokens(tokenizer)
    tasks = [_collect(name, draw, lookup, settings, context_length) for name, draw in SENTENCES.items()]
    return [*tasks, _induction(tokenizer, settings, context_length)]


class SingleTokens:
    """Finds the token that a word is, if it is one."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.bos_id = tokenizer.bos_id
        self._tokenizer = tokenizer.tokenizer
        self._known: dict[str, int | None] = {}

    def __getitem__(self, word: str) -> int | None:
        """Return the id of a word with its leading space; None if it is several tokens, or an unknown one."""
        if word not in self._known:
            ids = self._tokenizer.encode(word, add_special_tokens=False).ids
            whole = len(ids) == 1 and self._tokenizer.decode(ids).strip() == word.strip()
            self._known[word] = ids[0] if whole else None
        return self._known[word]

    def all(self, item: Item) -> list[int] | None:
        """Return BOS and the ids of the words, of the right and of the wrong answer; None if one is no single token."""
        ids = [self[word] for word in (*item.words, item.correct, item.wrong)]
        return None if None in ids else [self.bos_id, *(number for number in ids if number is not None)]


def _collect(name: str, draw: Draw, lookup: SingleTokens, settings: TaskSettings, context_length: int) -> Task:
    """Draw groups until there are enough items, each group once, and leave out those that are no single tokens."""
    random = generator(settings.seed, "task-items", name)
    seen: set[tuple[Item, ...]] = set()
    groups: list[list[list[int]]] = []
    dropped = kept = 0
    for _ in range(DRAWS * settings.items):
        if kept >= settings.items:
            break
        group = draw(random)
        if group in seen:
            continue
        seen.add(group)
        ids = [found for found in map(lookup.all, group) if found and len(found) - 2 <= context_length]
        if len(ids) < len(group):
            dropped += len(group)
        else:
            groups.append(ids)
            kept += len(group)
    return _task(name, groups, dropped)


def _task(name: str, groups: list[list[list[int]]], dropped: int) -> Task:
    """Lay groups of items, BOS and words and both answers of each, out as tensors."""
    numbers = [number for number, group in enumerate(groups) for _ in group]
    rows = [ids for group in groups for ids in group]
    ids_BT = torch.tensor(rows, dtype=torch.int64) if rows else torch.zeros(0, 3, dtype=torch.int64)
    return Task(name, ids_BT[:, :-2], ids_BT[:, -2], ids_BT[:, -1], torch.tensor(numbers, dtype=torch.int64), dropped)


def _induction(tokenizer: TextTokenizer, settings: TaskSettings, context_length: int) -> Task:
    """Random tokens of which a stretch comes again: what follows it is what followed before (Olsson et al. 2022).

    The wrong token is one that came before the stretch, or after it; both come once. Each sequence has its double in
    which right and wrong token have changed places.
    """
    random = generator(settings.seed, "task-items", "induction")
    special = {*tokenizer.tokenizer.get_added_tokens_decoder(), tokenizer.bos_id}
    ordinary = np.array(sorted(set(tokenizer.tokenizer.get_vocab(with_added_tokens=False).values()) - special))
    count = -(-settings.items // 4)
    if len(ordinary) < REPEATED or context_length < 1 + REPEATED + END - BEGIN:
        return _task("induction", [], 4 * count)
    groups = []
    for _ in range(count):
        drawn = [int(token) for token in random.choice(ordinary, REPEATED, replace=False)]
        group = []
        for place in (BEGIN - 2, END + 2):
            swapped = drawn.copy()
            swapped[END], swapped[place] = swapped[place], swapped[END]
            for first in (drawn, swapped):
                group.append([tokenizer.bos_id, *first, *first[BEGIN:END], first[END], first[place]])
        groups.append(group)
    return _task("induction", groups, 0)


def _spaced(*words: str) -> tuple[str, ...]:
    return tuple(f" {word}" for word in words)


def _pick(random: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(random.integers(len(words)))]


def _nouns(random: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Draw different nouns, each with its plural."""
    chosen = random.choice(len(NOUNS), count, replace=False)
    return [(NOUNS[n], PLURALS.get(NOUNS[n], f"{NOUNS[n]}s")) for n in chosen]


def _agreement(random: np.random.Generator) -> tuple[Item, ...]:
    """`The nation` | `is`, not `are`; and the same in the plural."""
    verbs = AGREEING_VERBS[int(random.integers(len(AGREEING_VERBS)))]
    (subject,) = _nouns(random, 1)
    return tuple(_agreeing(("The", subject[number]), verbs, number) for number in (0, 1))


def _agreeing(words: tuple[str, ...], verbs: tuple[str, str], number: int) -> Item:
    return Item(_spaced(*words), f" {verbs[number]}", f" {verbs[1 - number]}")


def _across(between: Callable[[np.random.Generator, str], tuple[str, ...]]) -> Draw:
    """Make the draw of sentences with another noun between subject and verb, in all four combinations of number."""

    def draw(random: np.random.Generator) -> tuple[Item, ...]:
        verbs = AGREEING_VERBS[int(random.integers(len(AGREEING_VERBS)))]
        subject, other = _nouns(random, 2)
        phrase = between(random, "{}")
        return tuple(
            _agreeing(("The", subject[number], *(word.format(other[nearest]) for word in phrase)), verbs, number)
            for number in (0, 1)
            for nearest in (0, 1)
        )

    return draw


def _prepositional(random: np.random.Generator, noun: str) -> tuple[str, ...]:
    """`The nation near the ports` | `is`."""
    return _pick(random, PREPOSITIONS), "the", noun


def _relative(random: np.random.Generator, noun: str) -> tuple[str, ...]:
    """`The nation that the ports helped` | `is`."""
    return "that", "the", noun, _pick(random, RELATIVE_VERBS)


def _indirect_object(random: np.random.Generator) -> tuple[Item, ...]:
    """`Then Mexico and Spain met, and Mexico gave the land to` | `Spain`, not `Mexico` (Wang et al. 2022).

    Either name is named first, and either is the giver.
    """
    names = NAMES[int(random.integers(len(NAMES)))]
    one, other = (names[n] for n in random.choice(len(names), 2, replace=False))
    meet, give, thing = (_pick(random, words) for words in (MEETING_VERBS, GIVING_VERBS, THINGS))
    return tuple(
        Item(
            (*_spaced("When", first, "and", second, meet), ",", *_spaced(giver, give, "the", thing, "to")),
            f" {receiver}",
            f" {giver}",
        )
        for first, second in ((one, other), (other, one))
        for giver, receiver in ((one, other), (other, one))
    )


SENTENCES: dict[str, Draw] = {
    "agreement": _agreement,
    "agreement_prepositional": _across(_prepositional),
    "agreement_relative": _across(_relative),
    "indirect_object": _indirect_object,
}
"""What draws the sentences of each task."""

TASKS = (*SENTENCES, "induction")
"""Names of all tasks, in order."""
