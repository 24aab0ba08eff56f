"""Answers of a language model: what is read, what is asked for again, and what is never guessed."""

import hashlib
import json
from pathlib import Path

import interpreted_features as made_up
import pandas as pd
import pytest
from judge import Failure, decisions, kind_of, knowing, serving

from ontogeny.interpretation.cache import Answer, Cache
from ontogeny.interpretation.prompts import (
    MalformedAnswerError,
    Window,
    explanation_messages,
    read_decisions,
    read_rating,
)

MALFORMED = [
    ("It is about snow.", "it is no JSON"),
    ('{"explanation": "snow", "complexity": 6}', "complexity: input should be less than or equal to 5"),
    ('{"explanation": "snow", "complexity": "3"}', "complexity: input should be a valid integer"),
    ('{"explanation": "snow", "complexity": 2.5}', "complexity: input should be a valid integer"),
    ('{"explanation": "snow"}', "complexity: field required"),
    ('{"explanation": " ", "complexity": 3}', "explanation: string should have at least 1 character"),
    ('{"explanation": "snow", "complexity": 3, "complexity": 4}', "a key is given twice"),
    ('{"explanation": "snow", "complexity": 3} and rain', "it is no JSON"),
    ('{"explanation": "snow", "complexity": 3, "sure": true}', "sure: extra inputs are not permitted"),
    ("", "it is no JSON"),
    ("1" * 5000, "it is no JSON"),
    ("[" * 100_000, "it is no JSON"),
]


@pytest.mark.parametrize(("answer", "problem"), MALFORMED)
def test_an_answer_of_another_form_is_no_rating(answer: str, problem: str) -> None:
    with pytest.raises(MalformedAnswerError, match=f"^{problem}"):
        read_rating(answer)


def test_a_thought_before_an_answer_is_no_part_of_it() -> None:
    thought = '<think>\nPerhaps {"1": false}?\n</think>\n\n'
    assert read_decisions(thought + '{"1": true}', 1) == [True]
    assert read_decisions(thought + '```json\n{"1": true}\n```', 1) == [True]
    with pytest.raises(MalformedAnswerError, match="it is no JSON"):
        read_decisions('<think>{"1": true}', 1)


@pytest.mark.parametrize(
    "answer",
    ['{"1": true}', '{"1": true, "2": false, "3": true}', '{"1": true, "2": "no"}', '{"1": 1, "2": 0}', "[true, false]", '{"0": true, "1": true}'],
)  # fmt: skip
def test_decisions_are_one_for_each_window(answer: str) -> None:
    assert read_decisions('{"2": false, "1": true}', 2) == [True, False]
    assert read_decisions('```json\n{"1": true,\n "2": false}\n```\n', 2) == [True, False]
    with pytest.raises(MalformedAnswerError):
        read_decisions(answer, 2)


def test_a_malformed_answer_is_asked_for_again(tmp_path: Path) -> None:
    def hesitating(question: str) -> str:
        return "Well." if len(judge.requests[-1]["messages"]) == 2 else knowing(question)

    with serving(hesitating) as judge:
        table = made_up.interpret(tmp_path, made_up.settings(judge.address, concurrency=1), made_up.features(2))
        assert len(judge.requests) == 12, "every question twice"
        again = next(body["messages"] for body in judge.requests if len(body["messages"]) > 2)
        made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(2))
        assert len(judge.requests) == 12, "an answer that cannot be read was paid for as well"
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert again[2]["content"] == "Well."
    assert set(table["detection"]) == {1.0}
    assert table["problem"].isna().all()


def test_what_cannot_be_read_is_never_guessed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def silent_about_rain(question: str) -> str:
        if "rain1" in question and kind_of(question) == "explanation":
            return "I would rather not say."
        if "hail2" in question and kind_of(question) == "detection":
            return decisions([True])
        return knowing(question)

    caplog.set_level("INFO", logger="ontogeny")
    with serving(silent_about_rain) as judge:
        table = made_up.interpret(tmp_path, made_up.settings(judge.address, concurrency=1), made_up.features(3))
    assert len(judge.requests) == 3 + 3 + (1 + 3 + 1)
    assert table.loc[1, ["explanation", "complexity", "detection", "fuzzing"]].isna().all()
    assert table["problem"].tolist()[1:] == [
        "explanation: it is no JSON",
        "detection: its keys are not the numbers of the windows, 1 to 6",
    ]
    assert pd.isna(table.loc[2, "detection"])
    assert table.loc[2, "fuzzing"] == 1.0
    assert "unread answers for 1 features: explanation: it is no JSON" in caplog.text


def test_an_answer_that_was_cut_off_is_counted_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ontogeny")
    choice = {"message": {"content": '{"explanation": "sno'}, "finish_reason": "length"}
    cut = Failure(200, text=json.dumps({"choices": [choice]}))
    with serving(knowing, [cut] * 3) as judge:
        made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(1))
        table = made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(2))
    assert table.loc[0, "problem"] == "explanation: cut off at interpretation.max_tokens"
    assert table.loc[1, "detection"] == 1.0
    assert "unread answers for 1 features: explanation: cut off at interpretation.max_tokens" in caplog.text
    kept = [json.loads(file.read_text())["answer"]["finish_reason"] for file in (tmp_path / "cache").rglob("*.json")]
    assert sorted(kept) == ["length"] * 3 + ["stop"] * 3


def test_answers_whose_end_was_not_kept_are_answers(tmp_path: Path) -> None:
    cache, messages = Cache(tmp_path, made_up.settings("http://here")), explanation_messages([Window(("a",), (True,))])
    cache.keep(messages, Answer(text="b", input_tokens=3, output_tokens=1))
    (file,) = tmp_path.rglob("*.json")
    entry = json.loads(file.read_text())
    del entry["answer"]["finish_reason"]
    told = json.dumps({"text": "b", "input_tokens": 3, "output_tokens": 1}, sort_keys=True)
    entry["checksum"] = hashlib.sha256(told.encode()).hexdigest()
    file.write_text(json.dumps(entry))
    assert cache.find(messages) == Answer(text="b", input_tokens=3, output_tokens=1)
