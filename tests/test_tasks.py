"""Items of tasks: single tokens, balanced, rightly labelled, the same every time."""

from pathlib import Path

import pytest
from tiny_model import write_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from ontogeny.config.evaluation import TaskSettings
from ontogeny.evaluation.task_words import (
    GIVING_VERBS,
    MEETING_VERBS,
    NAMES,
    NOUNS,
    PLURALS,
    PREPOSITIONS,
    RELATIVE_VERBS,
)
from ontogeny.evaluation.tasks import TASKS, Task, make_tasks
from ontogeny.tokenizer import TextTokenizer, read_tokenizer

# Two of three nouns, and half of all other words.
SINGULAR = tuple(word for number, word in enumerate(NOUNS) if number % 3)
PLURAL = tuple(PLURALS.get(word, f"{word}s") for word in SINGULAR)
VERBS = {"is": "are", "was": "were"}
LISTS = (PREPOSITIONS, RELATIVE_VERBS, MEETING_VERBS, GIVING_VERBS, NAMES[0], NAMES[1])
SOME = {word for words in LISTS for word in words[::2]} | {"money", "land", "paper", "gift"}
OTHERS = ("The", "the", "that", "When", "and", ",", "to", *sorted(SOME - {*SINGULAR, *PLURAL}))
WORDS = ("<|endoftext|>", "[UNK]", *SINGULAR, *PLURAL, *VERBS, *VERBS.values(), *OTHERS)


def tokenizer_of(folder: Path, words: tuple[str, ...] = WORDS) -> TextTokenizer:
    """Make a tokenizer of whole words; all others are unknown."""
    file = write_tokenizer(folder / "tokenizer")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>", "[UNK]"])
    tokenizer.save(str(file))
    return read_tokenizer(file)


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Task]:
    return {task.name: task for task in make_tasks(tokenizer_of(tmp_path), TaskSettings(items=16), 64)}


def items(task: Task) -> list[tuple[list[str], str, str]]:
    """Read the words of each item, BOS left out, and its right and wrong answer."""
    columns = zip(task.tokens_BT.tolist(), task.correct_B.tolist(), task.wrong_B.tolist(), strict=True)
    return [([WORDS[n] for n in tokens[1:]], WORDS[correct], WORDS[wrong]) for tokens, correct, wrong in columns]


def test_all_tasks_have_items_that_start_with_bos(tasks: dict[str, Task]) -> None:
    assert tuple(tasks) == TASKS
    for task in tasks.values():
        assert len(task.tokens_BT) >= 12, task.name
        assert set(task.tokens_BT[:, 0].tolist()) == {0}
        assert 1 not in task.tokens_BT, "the unknown token"
        assert (task.correct_B != task.wrong_B).all()
        assert len(set(map(str, items(task)))) == len(task.tokens_BT)


@pytest.mark.parametrize("name", TASKS[:3])
def test_verbs_agree_with_the_subject_and_numbers_are_balanced(tasks: dict[str, Task], name: str) -> None:
    numbers = []
    for words, correct, wrong in items(tasks[name]):
        plural = words[1] in PLURAL
        assert (correct in VERBS.values()) == plural
        assert (wrong in VERBS.values()) != plural
        pair = {correct, wrong}
        assert any({singular, other} == pair for singular, other in VERBS.items())
        others = [word in PLURAL for word in words[2:] if word in SINGULAR + PLURAL]
        numbers.append((plural, *others))
    group = 2 if name == "agreement" else 4
    for start in range(0, len(numbers), group):
        assert len(set(numbers[start : start + group])) == group, "every combination of numbers once"
        assert len(set(tasks[name].group_B[start : start + group].tolist())) == 1


def test_the_receiver_is_the_name_that_is_named_once(tasks: dict[str, Task]) -> None:
    answers = []
    for words, correct, wrong in items(tasks["indirect_object"]):
        assert words.count(correct) == 1
        assert words.count(wrong) == 2
        assert words[0] == "When"
        assert words[-1] == "to"
        answers.append((correct, wrong, words.index(correct) < words.index(wrong)))
    for start in range(0, len(answers), 4):
        right, wrong, first = zip(*answers[start : start + 4], strict=True)
        assert sorted(right) == sorted(wrong)
        assert sum(first) == 2


def test_induction_repeats_what_came_before_the_answer(tasks: dict[str, Task]) -> None:
    for words, correct, wrong in items(tasks["induction"]):
        first, again = words[:12], words[12:]
        place = next(n for n in range(12) if first[n : n + len(again)] == again)
        assert first[place + len(again)] == correct
        assert words.count(correct) == words.count(wrong) == 1
    pairs = list(zip(tasks["induction"].correct_B.tolist(), tasks["induction"].wrong_B.tolist(), strict=True))
    assert pairs[::2] == [pair[::-1] for pair in pairs[1::2]]
    sides = [words.index(wrong) < words.index(correct) for words, correct, wrong in items(tasks["induction"])]
    assert sides == [True, True, False, False] * 4


def test_items_of_several_tokens_are_left_out_and_counted(tmp_path: Path) -> None:
    whole = make_tasks(tokenizer_of(tmp_path / "a"), TaskSettings(items=16), 64)
    assert all(task.dropped > 0 for task in whole[:4]), "the lists have words that this tokenizer has not"
    fewer = tokenizer_of(tmp_path / "b", tuple(word for word in WORDS if word != "are"))
    found = {task.name: task for task in make_tasks(fewer, TaskSettings(items=16), 64)}
    assert {int(n) for n in found["agreement"].correct_B} <= {fewer.tokenizer.token_to_id(w) for w in ("was", "were")}
    none = tokenizer_of(tmp_path / "c", tuple(word for word in WORDS if word != "The"))
    found = {task.name: task for task in make_tasks(none, TaskSettings(items=16), 64)}
    assert found["agreement"].tokens_BT.shape[0] == 0
    assert found["agreement"].dropped > 100


def test_texts_longer_than_a_context_are_left_out(tmp_path: Path) -> None:
    found = {task.name: task for task in make_tasks(tokenizer_of(tmp_path), TaskSettings(items=16), 6)}
    lengths = {name: task.tokens_BT.shape[1] for name, task in found.items() if len(task.tokens_BT)}
    assert lengths == {"agreement": 3, "agreement_prepositional": 6}
    assert found["induction"].dropped == 16


def test_items_depend_on_the_seed_alone(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    first, again, other = (make_tasks(tokenizer, TaskSettings(items=16, seed=seed), 64) for seed in (0, 0, 1))
    for one, two, three in zip(first, again, other, strict=True):
        assert one.tokens_BT.equal(two.tokens_BT)
        assert not one.tokens_BT.equal(three.tokens_BT)
