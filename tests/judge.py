"""A server of OpenAI's protocol that answers by a known rule, or fails as it is told to."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple

Rule = Callable[[str], str]
"""What is answered to a question, however often it is asked."""


class Failure(NamedTuple):
    """An answer other than a chat completion."""

    status: int
    wait: str | None = None
    """Header `Retry-After`."""
    text: str = '{"error": {"message": "no"}}'
    seconds: float = 0.0
    """How long it takes."""
    encoding: str | None = None
    """Header `Content-Encoding`, which is a lie."""


class Judge(ThreadingHTTPServer):
    """The server; it remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, rule: Rule, failures: list[Failure], for_ever: Failure | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rule = rule
        self.failures = failures
        self.for_ever = for_ever
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.lock = Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append({**self.headers, "path": self.path})
            self.server.times.append(time.monotonic())
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            failure = self.server.failures.pop(0) if self.server.failures else self.server.for_ever
        try:
            self._answer(body, failure)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def _answer(self, body: dict[str, Any], failure: Failure | None) -> None:
        if failure is not None:
            time.sleep(failure.seconds)
            told = {"Retry-After": failure.wait, "Content-Encoding": failure.encoding}
            self._send(failure.status, {name: value for name, value in told.items() if value}, failure.text)
            return
        said = self.server.rule(body["messages"][1]["content"])
        completion = {
            "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
        self._send(200, {}, json.dumps(completion))

    def _send(self, status: int, headers: dict[str, str], text: str) -> None:
        content = text.encode()
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(rule: Rule, failures: list[Failure] | None = None, for_ever: Failure | None = None) -> Iterator[Judge]:
    """Run a server for as long as the block runs: first it fails so often, then for ever or never."""
    judge = Judge(rule, list(failures or []), for_ever)
    thread = Thread(target=judge.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.shutdown()
        judge.server_close()
        thread.join()


def windows_in(question: str) -> list[str]:
    """Read the windows of a question."""
    return [json.loads(line) for line in re.findall(r'^\d+: (".*")$', question, re.MULTILINE)]


def marked_in(window: str) -> list[str]:
    return re.findall("<<(.*?)>>", window, re.DOTALL)


def kind_of(question: str) -> str:
    if '"complexity"' in question:
        return "explanation"
    return "fuzzing" if "marks are right" in question else "detection"


def decisions(decided: list[bool]) -> str:
    return json.dumps({str(number): said for number, said in enumerate(decided, 1)})


def knowing(question: str) -> str:
    """Explain a feature by the text that is marked most often, as complex as there are different ones; stick to it."""
    windows = windows_in(question)
    if kind_of(question) == "explanation":
        pieces = Counter(piece for window in windows for piece in marked_in(window))
        word = pieces.most_common(1)[0][0]
        return json.dumps({"explanation": f"the text [{word}]", "complexity": min(len(pieces), 5)})
    explanation = json.loads(re.search(r'like this: (".*")$', question, re.MULTILINE)[1])
    word = explanation.removeprefix("the text [").removesuffix("]")
    if kind_of(question) == "detection":
        return decisions([word in window for window in windows])
    return decisions([bool(found := marked_in(window)) and set(found) == {word} for window in windows])


def blind(question: str) -> str:
    """Say yes to everything."""
    if kind_of(question) == "explanation":
        return json.dumps({"explanation": "anything", "complexity": 5})
    return decisions([True] * len(windows_in(question)))
