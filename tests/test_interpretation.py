"""Explanations, ratings and scores of features: known answers from a judge that keeps a known rule."""

import json
import subprocess
import sys
import time
from pathlib import Path

import interpreted_features as made_up
import pandas as pd
import pyarrow.parquet as pq
import pytest
from evaluation_study import script
from judge import blind, kind_of, knowing, serving, windows_in

from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.errors import UserError
from ontogeny.interpretation.cache import Answer, Cache
from ontogeny.interpretation.prompts import (
    DETECT,
    FUZZ,
    Window,
    decision_messages,
    explanation_messages,
)
from ontogeny.interpretation.ratings import SCHEMA, outlook, read_subjects
from ontogeny.interpretation.scores import score


def test_a_judge_that_knows_scores_1(tmp_path: Path) -> None:
    with serving(knowing) as judge:
        table = made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(5))
    assert table["explanation"].tolist() == [f"the text [{made_up.WORDS[n % 4]}{n}]" for n in range(5)]
    assert set(table["complexity"]) == {1}
    assert set(table["detection"]) == set(table["fuzzing"]) == {1.0}
    assert len(judge.requests) == 15
    counts = table.iloc[0][[name for name in table if name.startswith(("detection_", "fuzzing_"))]]
    assert counts.to_dict() == {
        "detection_positives": 3, "detection_hits": 3, "detection_negatives": 3, "detection_rejections": 3,
        "fuzzing_positives": 2, "fuzzing_hits": 2, "fuzzing_negatives": 2, "fuzzing_rejections": 2,
    }  # fmt: skip


def test_a_judge_that_does_not_look_scores_one_half(tmp_path: Path) -> None:
    with serving(blind) as judge:
        table = made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(3))
    assert set(table["complexity"]) == {5}
    assert set(table["detection"]) == set(table["fuzzing"]) == {0.5}
    assert set(table["detection_hits"]) == {3}
    assert set(table["detection_rejections"]) == {0}


def test_half_an_explanation_scores_what_is_counted_by_hand(tmp_path: Path) -> None:
    with serving(knowing) as judge:
        table = made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.of_two_words())
    assert table.loc[0, "explanation"] == "the text [snow]"
    assert table.loc[0, "complexity"] == 2
    assert table.loc[0, "detection"] == pytest.approx((2 / 5 + 4 / 4) / 2)
    assert table.loc[0, "fuzzing"] == pytest.approx((1 / 2 + 2 / 2) / 2)


def test_scores_by_hand() -> None:
    found = score([True, True, True, False, False], [True, False, True, False, True])
    assert found == (3, 2, 2, 1)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert score([True, True], [True, True]).balanced_accuracy is None
    assert score([], []).balanced_accuracy is None


def test_windows_that_give_no_score_are_not_asked_about(tmp_path: Path) -> None:
    """Whoever answers about silent windows alone can tell no true ones from them."""
    rows = [row for row in made_up.features(1) if row[1] != "detection" or not row[3]]
    with serving(knowing) as judge:
        table = made_up.interpret(tmp_path, made_up.settings(judge.address), rows)
        assert len(judge.requests) == 2
    assert pd.isna(table.loc[0, "detection"])
    assert table.loc[0, "fuzzing"] == 1.0


def test_the_table_says_what_it_is(tmp_path: Path) -> None:
    with serving(knowing) as judge:
        made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(2))
    read = pq.read_table(tmp_path / "interpretations.parquet")
    assert read.schema.remove_metadata() == SCHEMA
    assert [str(read.schema.field(name).type) for name in ("feature", "explanation", "complexity", "detection", "fuzzing")] == [
        "int32", "string", "int8", "double", "double",
    ]  # fmt: skip
    labels = {key.decode(): value.decode() for key, value in read.schema.metadata.items()}
    assert (labels["dictionary"], labels["run"], labels["model"]) == ("crosscoder", "latents2048-k32-seed0", "judge-1")
    assert "versions" in labels
    chosen = json.loads(labels["settings"])
    assert chosen["temperature"] == 0
    assert not {"endpoint", "key", "timeout", "concurrency"} & set(chosen), "what changes no answer"


def test_requests_are_those_of_the_protocol(tmp_path: Path) -> None:
    with serving(knowing) as judge:
        made_up.interpret(
            tmp_path, made_up.settings(judge.address, temperature=0.5, max_tokens=None), made_up.features(1)
        )
    assert [headers["path"] for headers in judge.headers] == ["/v1/chat/completions"] * 3
    assert [set(body) for body in judge.requests] == [{"model", "messages", "temperature"}] * 3
    assert [kind_of(body["messages"][-1]["content"]) for body in judge.requests] == [
        "explanation",
        "detection",
        "fuzzing",
    ]
    question = judge.requests[0]["messages"][-1]["content"]
    assert windows_in(question) == ["andso<<snow0>>onitwent"] * 4
    assert all("<<" not in window for window in windows_in(judge.requests[1]["messages"][-1]["content"]))


def test_what_was_answered_is_never_asked_again(tmp_path: Path) -> None:
    with serving(knowing) as judge:
        first = made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(4))
        assert len(judge.requests) == 12
    with serving(blind) as other:
        settings = made_up.settings(other.address, concurrency=1, timeout=1.0, input_price=1.0, output_price=2.0)
        again = made_up.interpret(tmp_path, settings, made_up.features(4))
        assert other.requests == [], "another server of the same model is not asked"
        made_up.interpret(tmp_path, made_up.settings(other.address, model="judge-2"), made_up.features(4))
        assert len(other.requests) == 12
        made_up.interpret(tmp_path, made_up.settings(other.address, temperature=1.0), made_up.features(4))
        assert len(other.requests) == 24
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_a_damaged_answer_is_asked_again(tmp_path: Path, damage: str) -> None:
    with serving(knowing) as judge:
        first = made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(2))
        asked = len(judge.requests)
        (file, *_) = sorted((tmp_path / "cache").rglob("*.json"))
        content = file.read_text()
        spoilt = {
            "cut": content[:-20],
            "changed": content.replace('"input_tokens": 100', '"input_tokens": 101'),
            "emptied": "",
        }[damage]
        assert spoilt != content
        file.write_text(spoilt)
        pd.testing.assert_frame_equal(
            made_up.interpret(tmp_path, made_up.settings(judge.address), made_up.features(2)), first
        )
        assert len(judge.requests) == asked + 1
        assert file.read_text() == content


def test_a_killed_job_resumes_without_paying_again(tmp_path: Path) -> None:
    """The tenth request ends the job, as a kill would: nobody is there to hear the answer."""
    windows = made_up.write(tmp_path / "windows.parquet", made_up.features(8))
    running: list[subprocess.Popen[bytes]] = []

    def killing(question: str) -> str:
        if len(judge.requests) == 10:
            running[0].kill()
            running[0].wait()
        return knowing(question)

    with serving(killing) as judge:
        settings = made_up.settings(judge.address, concurrency=1)
        line = [
            sys.executable, str(Path(__file__).parents[1] / "scripts/interpretation.py"), "--settings",
            settings.model_dump_json(), "--windows", str(windows), "--cache", str(tmp_path / "cache"), "--out",
            str(tmp_path / "interpretations.parquet"),
        ]  # fmt: skip
        running.append(subprocess.Popen(line))
        running[0].wait()
        assert len(judge.requests) == 10
        assert not (tmp_path / "interpretations.parquet").exists()
        table = made_up.interpret(tmp_path, settings, made_up.features(8))
    assert len(judge.requests) == 24 + 1, "the one whose answer was not heard"
    assert set(table["detection"]) == {1.0}


def test_costs_are_told_before_the_first_request_and_after_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ontogeny")
    told: list[str] = []

    def listening(question: str) -> str:
        told.append(caplog.messages[0])
        return knowing(question)

    with serving(listening) as judge:
        settings = made_up.settings(judge.address, input_price=2.0, output_price=8.0)
        made_up.interpret(tmp_path, settings, made_up.features(2))
        assert told[0].startswith("interpretation: 0 answers are kept from before; still to ask, about: 6 requests, ")
        assert "asked 6 requests, 600 tokens of questions and 60 of answers; cost 0.00168" in caplog.text
        windows = made_up.write(tmp_path / "windows.parquet", made_up.features(3))
        subjects, _ = read_subjects(windows)
        expected = outlook(Cache(tmp_path / "cache", settings), subjects, settings)
    assert expected.startswith("6 answers are kept from before; still to ask, about: 3 requests, ")
    assert "price" in outlook(Cache(tmp_path / "none", settings), subjects, made_up.settings("http://here"))


def test_an_estimate_is_a_quarter_of_the_characters(tmp_path: Path) -> None:
    settings = made_up.settings("http://here", input_price=1e6, output_price=0.0)
    subjects, _ = read_subjects(made_up.write(tmp_path / "windows.parquet", made_up.features(1)))
    first = [message["content"] for message in explanation_messages(subjects[0].examples)]
    least = sum(map(len, first)) / 4
    said = outlook(Cache(tmp_path, settings), subjects, settings)
    assert f"and {60 + 6 * 10} of answers" in said
    tokens = int(said.split("requests, ")[1].split(" ")[0].replace(",", ""))
    assert 2 * least < tokens < 4 * least
    assert said.endswith(f"cost {float(tokens):.4g}")


def test_marks_and_line_breaks_are_unmistakable() -> None:
    window = Window(("a", " b", "\n", "c", '"'), (False, True, True, False, True))
    question = decision_messages(DETECT, 'said "so"', [window])[1]["content"]
    assert windows_in(question) == ['a<< b\n>>c<<">>']
    assert r'1: "a<< b\n>>c<<\">>"' in question
    assert r"like this: \"said" not in question


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("x = 1", ("<<", ">>")),
        ("cout << x", ("[[", "]]")),
        ("a > b", ("[[", "]]")),
        ("x[0] < 1", ("{{", "}}")),
        ("{x[0]} < 1", ("\u00ab", "\u00bb")),
        ("\u00ab{x[0]}\u00bb <<< 1 > 0", ("<<<<", ">>>>")),
    ],
)
def test_marks_are_signs_that_no_window_has(text: str, marks: tuple[str, str]) -> None:
    windows = [Window(("one", " two"), (False, True)), Window((text, " end"), (False, True))]
    for messages in (explanation_messages(windows), decision_messages(FUZZ, "so", windows)):
        question = messages[1]["content"]
        assert f"stand between {marks[0]} and {marks[1]}" in " ".join(question.split())
        assert windows_in(question) == [f"one{marks[0]} two{marks[1]}", f"{text}{marks[0]} end{marks[1]}"]


def test_a_cache_gives_back_what_it_was_given(tmp_path: Path) -> None:
    cache = Cache(tmp_path, made_up.settings("http://here"))
    messages = explanation_messages([Window(("snow \u2603",), (True,))])
    assert cache.find(messages) is None
    answer = Answer(text="\u2603", input_tokens=3, output_tokens=1)
    cache.keep(messages, answer)
    assert cache.find(messages) == answer
    assert cache.find(messages[:1]) is None
    assert [file.name for file in tmp_path.rglob(".*")] == [], "nothing half-written"


def test_several_requests_are_under_way_and_no_more(tmp_path: Path) -> None:
    def slow(question: str) -> str:
        time.sleep(0.05)
        return knowing(question)

    with serving(slow) as judge:
        made_up.interpret(tmp_path, made_up.settings(judge.address, concurrency=3), made_up.features(8))
    assert judge.most_at_once == 3


def test_the_command_needs_a_table_and_an_endpoint(tmp_path: Path) -> None:
    def run(settings: InterpretationSettings) -> str:
        options = {
            "settings": settings.model_dump_json(),
            "windows": tmp_path / "w.parquet",
            "cache": tmp_path / "c",
            "out": tmp_path / "o",
        }
        done = script("interpretation.py", *(part for name, value in options.items() for part in (f"--{name}", value)))
        assert done.returncode == 1
        return done.stderr

    assert run(made_up.settings(None)).startswith("error: interpretation: endpoint and model must be given")
    assert run(made_up.settings("http://here")).endswith("there is no such table; run the rule 'windows'\n")
    (tmp_path / "w.parquet").write_text("no")
    assert "no Parquet table" in run(made_up.settings("http://here"))


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pq.read_table(made_up.write(tmp_path / "w.parquet", made_up.features(1))).drop(["marks"]),
        tmp_path / "w.parquet",
    )
    with pytest.raises(UserError, match=r"column 'marks' is missing; run the rule 'windows' again"):
        read_subjects(tmp_path / "w.parquet")
