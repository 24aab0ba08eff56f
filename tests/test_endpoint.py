"""Servers that are busy, broken, silent or not there: a few more attempts, or one clear line, and nothing that hangs."""

import asyncio
import json
import re
import socket
import subprocess
import time
from email.utils import formatdate
from pathlib import Path

import interpreted_features as made_up
import pyarrow.parquet as pq
import pytest
from evaluation_study import script
from judge import Failure, knowing, serving

from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.errors import UserError
from ontogeny.interpretation import endpoint
from ontogeny.interpretation.endpoint import Endpoint
from ontogeny.interpretation.ratings import write_interpretations

KEY = "sk-ThisIsTheSecret-4711"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF", (0.01, 0.02, 0.04))


def interpret(folder: Path, settings: InterpretationSettings, count: int = 2) -> list[float]:
    windows = made_up.write(folder / "windows.parquet", made_up.features(count))
    write_interpretations(settings, windows, folder / "cache", folder / "interpretations.parquet", None)
    scores: list[float] = pq.read_table(folder / "interpretations.parquet")["detection"].to_pylist()
    return scores


def command(settings: InterpretationSettings, windows: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as its rule does."""
    places = {"cache": "cache", "out": "interpretations.parquet", "log": "interpretation.log"}
    options = {"settings": settings.model_dump_json(), "windows": windows}
    options |= {name: folder / place for name, place in places.items()}
    return script("interpretation.py", *(part for name, value in options.items() for part in (f"--{name}", value)))


def message(folder: Path, settings: InterpretationSettings) -> str:
    with pytest.raises(UserError) as error:
        interpret(folder, settings)
    assert "\n" not in str(error.value)
    assert not (folder / "interpretations.parquet").exists()
    return str(error.value)


@pytest.mark.parametrize("status", [429, 408, 500, 502, 503])
def test_a_busy_server_is_asked_again(tmp_path: Path, status: int) -> None:
    with serving(knowing, [Failure(status)] * 3) as judge:
        assert interpret(tmp_path, made_up.settings(judge.address, concurrency=1)) == [1.0, 1.0]
        assert len(judge.requests) == 6 + 3
        assert judge.requests[0] == judge.requests[1]


@pytest.mark.parametrize("date", [False, True])
def test_a_server_says_how_long_to_wait(tmp_path: Path, date: bool) -> None:
    wait = formatdate(time.time() + 2.5, usegmt=True) if date else "1"
    with serving(knowing, [Failure(429, wait)]) as judge:
        assert interpret(tmp_path, made_up.settings(judge.address, concurrency=1)) == [1.0, 1.0]
        assert judge.times[1] - judge.times[0] > 0.9
        assert len(judge.requests) == 7


def test_nobody_waits_for_hours(tmp_path: Path) -> None:
    with serving(knowing, for_ever=Failure(429, "7200")) as judge:
        said = message(tmp_path, made_up.settings(judge.address, concurrency=1))
        assert len(judge.requests) == 1
    assert (
        'the server answers 429 {"error": {"message": "no"}} and asks to wait 7200 s; answers so far are kept' in said
    )


def test_a_server_that_fails_for_ever_is_left_after_a_while(tmp_path: Path) -> None:
    with serving(knowing, for_ever=Failure(500, text="out of\nmemory")) as judge:
        said = message(tmp_path, made_up.settings(judge.address, concurrency=1))
        assert len(judge.requests) == 4
        assert said == (
            f"interpretation.endpoint: {judge.address}/chat/completions: the server answers 500 out of memory; answers "
            "so far are kept, so run again later"
        )
        judge.for_ever = None
        assert interpret(tmp_path, made_up.settings(judge.address)) == [1.0, 1.0]


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    with serving(knowing, for_ever=Failure(200, seconds=30)) as judge:
        start = time.monotonic()
        said = message(tmp_path, made_up.settings(judge.address, timeout=0.2))
        assert time.monotonic() - start < 10
    assert "there was no answer within 0.2 s (interpretation.timeout); answers so far are kept" in said


def test_a_silence_that_ends_costs_one_more_request(tmp_path: Path) -> None:
    with serving(knowing, [Failure(200, seconds=3)]) as judge:
        assert interpret(tmp_path, made_up.settings(judge.address, timeout=1.0, concurrency=1)) == [1.0, 1.0]
        assert len(judge.requests) == 7


@pytest.mark.parametrize(
    ("failure", "key", "expected"),
    [
        (Failure(401, text=f"bad key {KEY}"), "JUDGE_KEY", "the server wants another key (401); check what JUDGE_KEY holds"),
        (Failure(403), None, "the server wants another key (403); interpretation.key names the variable that holds one"),
        (Failure(404), None, "the server knows no such address or no model 'judge-1'"),
        (Failure(400, text=f"no temperature for {KEY}"), "JUDGE_KEY", "the server refuses the question (400 no temperature for ...)"),
        (Failure(302), None, "the server refuses the question (302"),
        (Failure(200, text="<html>"), None, "what the server answers is no chat completion; expected OpenAI's protocol"),
        (Failure(200, text='{"choices": []}'), None, "what the server answers is no chat completion"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure, key: str | None, expected: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with serving(knowing, for_ever=failure) as judge:
        said = message(tmp_path, made_up.settings(judge.address, key=key, concurrency=1))
        assert len(judge.requests) == 1
    assert expected in said
    assert KEY not in said


def test_one_refusal_ends_what_is_under_way(tmp_path: Path) -> None:
    with serving(knowing, [Failure(401), *[Failure(200, seconds=20)] * 3]) as judge:
        start = time.monotonic()
        assert "(401)" in message(tmp_path, made_up.settings(judge.address, concurrency=4, timeout=60.0))
        assert time.monotonic() - start < 10


def test_several_refusals_at_once_are_one_line_in_the_log(tmp_path: Path) -> None:
    windows = made_up.write(tmp_path / "windows.parquet", made_up.features(8))
    with serving(knowing, for_ever=Failure(403, seconds=0.5)) as judge:
        done = command(made_up.settings(judge.address), windows, tmp_path)
        assert len(judge.requests) == 8
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    log = (tmp_path / "interpretation.log").read_text()
    assert log.endswith(done.stderr)
    assert log.count("403") == 1
    assert "Traceback" not in log


def test_an_unreachable_server_is_one_line_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = time.monotonic()
    said = message(tmp_path, made_up.settings(f"http://127.0.0.1:{port}/v1"))
    assert f"http://127.0.0.1:{port}/v1/chat/completions: the server cannot be reached (" in said
    assert time.monotonic() - start < 5
    assert "cannot be reached" in message(tmp_path, made_up.settings("http://no-such-host.invalid/v1"))


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one question, and hang up."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))
    body = b'{"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}'
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("back", [True, False])
def test_a_server_that_is_gone_after_an_answer_may_come_back(monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF", (0.1,) * (20 if back else 2))

    async def ask_twice() -> list[str]:
        server = await asyncio.start_server(answering, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Endpoint(made_up.settings(f"http://127.0.0.1:{port}/v1"), None) as asked:
            first = await asked.ask([{"role": "user", "content": "well?"}])
            server.close()
            await server.wait_closed()
            waiting = asyncio.create_task(asked.ask([{"role": "user", "content": "and now?"}]))
            await asyncio.sleep(0.15)
            if back:
                server = await asyncio.start_server(answering, "127.0.0.1", port)
            try:
                return [first.text, (await waiting).text]
            finally:
                server.close()

    if back:
        assert asyncio.run(ask_twice()) == ["yes", "yes"]
    else:
        with pytest.raises(UserError, match=r"the server cannot be reached \(.*\); answers so far are kept"):
            asyncio.run(ask_twice())


@pytest.mark.parametrize(
    ("address", "key", "warned"),
    [
        ("http://judge.example:8000/v1", KEY, True),
        ("http://192.168.0.7/v1", KEY, True),
        ("https://judge.example/v1", KEY, False),
        ("http://judge.example/v1", None, False),
        ("http://localhost:8000/v1", KEY, False),
        ("http://127.0.0.1:8000/v1", KEY, False),
        ("http://[::1]:8000/v1", KEY, False),
    ],
)
def test_a_key_that_others_can_read_is_warned_of(address: str, key: str | None, warned: bool) -> None:
    said = Endpoint(made_up.settings(address, key="JUDGE_KEY"), key).readable_key()
    assert (said is not None) == warned
    assert KEY not in str(said)


def test_the_warning_is_in_the_log_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    message(tmp_path, made_up.settings("http://no-such-host.invalid/v1", key="JUDGE_KEY"))
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said == (
        "interpretation.endpoint: the key that JUDGE_KEY holds goes to no-such-host.invalid over plain http, where "
        "others on the way can read it; use https if the server speaks it"
    )


def test_a_cache_that_cannot_be_written_stops_before_any_request(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    with serving(knowing) as judge:
        said = message(tmp_path, made_up.settings(judge.address))
        assert judge.requests == []
    assert said.startswith(f"{tmp_path / 'cache'}: answers cannot be kept in this folder (File exists), and would be ")


@pytest.mark.parametrize("address", ["http://999.1.1.1/v1", "http://xn--a/v1"])
def test_an_address_that_is_none_is_one_line(tmp_path: Path, address: str) -> None:
    assert f"{address}/chat/completions: this is no address (" in message(tmp_path, made_up.settings(address))


def test_an_answer_that_cannot_be_unpacked_is_asked_for_again(tmp_path: Path) -> None:
    with serving(knowing, for_ever=Failure(200, encoding="gzip")) as judge:
        said = message(tmp_path, made_up.settings(judge.address, concurrency=1))
        assert len(judge.requests) == 4
    assert "the connection broke (" in said


def test_an_answer_without_counts_or_text_is_an_answer(tmp_path: Path) -> None:
    silent = Failure(200, text='{"choices": [{"message": {"content": null}}]}')
    with serving(knowing, [silent]) as judge:
        assert interpret(tmp_path, made_up.settings(judge.address, concurrency=1), 1) == [1.0]
        assert judge.requests[1]["messages"][2] == {"role": "assistant", "content": "(nothing)"}


def test_the_key_is_sent_and_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    with serving(knowing, [Failure(500, text=KEY)]) as judge:
        windows = made_up.write(tmp_path / "windows.parquet", made_up.features(2))
        done = command(made_up.settings(judge.address, key="JUDGE_KEY"), windows, tmp_path)
        assert done.returncode == 0, done.stderr
        assert {headers["Authorization"] for headers in judge.headers} == {f"Bearer {KEY}"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 2 + 6 + 1
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    assert json.loads((tmp_path / "interpretation.log").read_text().rpartition("cost ")[2])["requests"] == 6
    with serving(knowing) as judge:
        interpret(tmp_path / "without", made_up.settings(judge.address))
        assert not any("Authorization" in headers for headers in judge.headers)


def test_a_key_that_is_not_set_stops_before_any_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving(knowing) as judge:
        said = message(tmp_path, made_up.settings(judge.address, key="JUDGE_KEY"))
        assert said == "interpretation.key: the environment variable JUDGE_KEY is not set; export it and run again"
        monkeypatch.setenv("JUDGE_KEY", "two\nlines")
        assert "holds is no key" in message(tmp_path, made_up.settings(judge.address, key="JUDGE_KEY"))
        assert judge.requests == []
