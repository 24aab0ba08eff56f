import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser_runs import KINDS, add_run, address, browsing
from database_commands import SCRIPTS, server_pid, server_runs, wait_until
from fastapi.testclient import TestClient

TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    add_run(root, "run", KINDS["checkpoints"], 24)
    return root


@pytest.fixture
def guarded(root: Path) -> Iterator[TestClient]:
    with browsing(root, TOKEN) as client:
        yield client


def test_an_empty_database_says_what_to_do(tmp_path: Path) -> None:
    with browsing(tmp_path) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "make database" in page.text
        assert client.get(address("run")).status_code == 404


def test_a_killed_server_is_a_page_that_says_so_and_comes_back(root: Path) -> None:
    home = root / "server"
    with browsing(root) as client:
        assert client.get(address("run")).status_code == 200
        os.kill(server_pid(home), signal.SIGKILL)
        wait_until(lambda: not server_runs(home))
        page = client.get(address("run"))
        assert page.status_code == 503
        assert page.headers["retry-after"] == "5"
        assert "went away" in page.text or "does not answer" in page.text
        assert "Traceback" not in page.text
        assert client.get(address("run")).status_code == 200
    wait_until(lambda: not server_runs(home))


def test_a_server_that_is_not_there_is_a_page_that_says_so(root: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"mongodb://reader:secret@127.0.0.1:{free.getsockname()[1]}/?serverSelectionTimeoutMS=200"
        with browsing(root, uri=uri) as client:
            for path in ("/", address("run"), address("run", 7)):
                page = client.get(path)
                assert page.status_code == 503
                assert "does not answer" in page.text
                assert "secret" not in page.text
            start = time.monotonic()
            assert client.get("/", headers={"accept": "application/json"}).json()["error"].startswith("database.uri")
            assert time.monotonic() - start < 0.1
            assert client.get("/static/browser.css").status_code == 200


def test_every_page_needs_the_token(guarded: TestClient) -> None:
    for path in ("/", address("run"), address("run", 7), "/static/browser.css", "/nowhere", "/?token=wrong"):
        page = guarded.get(path)
        assert page.status_code == 401
        assert "crosscoder" not in page.text
    assert guarded.post(address("run", "7/edit"), data={"bookmark": "on"}).status_code == 401
    guarded.cookies.set("ontogeny_token_8765", "guess")
    assert guarded.get("/").status_code == 401


def test_the_token_becomes_a_cookie(guarded: TestClient) -> None:
    answer = guarded.get(address("run"), params={"sort": "density", "token": TOKEN})
    assert answer.status_code == 303
    assert answer.headers["location"] == address("run", "?sort=density")
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("ontogeny_token_8765="))
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get(answer.headers["location"]).status_code == 200


def test_servers_at_two_ports_of_a_host_do_not_share_cookies(guarded: TestClient) -> None:
    first, second = "127.0.0.1:8765", "127.0.0.1:8766"
    guarded.get("/", params={"token": TOKEN}, headers={"host": first})
    assert guarded.get("/", headers={"host": first}).status_code == 200
    assert guarded.get("/", headers={"host": second}).status_code == 401
    guarded.get("/", params={"token": TOKEN}, headers={"host": second})
    assert len(guarded.cookies.jar) == len({cookie.name for cookie in guarded.cookies.jar}) >= 2
    assert guarded.get("/", headers={"host": first}).status_code == 200


def test_another_name_of_this_machine_is_refused_without_a_token(root: Path, guarded: TestClient) -> None:
    with browsing(root) as client:
        for host, status in (
            ("localhost:8765", 200),
            ("[::1]:8765", 200),
            ("evil.example", 400),
            ("127.0.0.1.evil", 400),
        ):
            assert client.get("/", headers={"host": host}).status_code == status, host
    assert guarded.get("/", headers={"host": "lab.example"}).status_code == 401


def test_every_answer_says_what_a_browser_may_do_with_it(root: Path) -> None:
    with browsing(root) as client:
        for path in ("/", address("run", 7), address("run", 99), "/nowhere", "/static/keys.js"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert re.search(r"script-src 'self';", policy)
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"


class Browse:
    """The command, serving an empty study."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "config.yaml").write_text((SCRIPTS.parent / "config.yaml").read_text())
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "browse.py"), "--config", "config.yaml", *options],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=60)[1]


def test_the_command_serves_at_the_address_that_it_prints(tmp_path: Path) -> None:
    browse = Browse(tmp_path, "--port", "0")
    try:
        where = browse.line()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", where)
        assert "make database" in httpx.get(where).text
    finally:
        said = browse.end()
    assert "Traceback" not in said
    wait_until(lambda: not server_runs(tmp_path / "results" / "database" / "server"))


@pytest.mark.parametrize(("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")])
def test_another_address_than_this_machines_own_has_a_token(tmp_path: Path, host: str, reached: str) -> None:
    browse = Browse(tmp_path, "--port", "0", "--host", host)
    try:
        where = browse.line()
        found = re.fullmatch(rf"http://{re.escape(host)}:(\d+)/\?token=(\S{{43}})", where)
        assert found
        plain = f"http://{reached}:{found[1]}/"
        assert httpx.get(plain).status_code == 401
        with httpx.Client(follow_redirects=True) as client:
            assert client.get(plain, params={"token": found[2]}).status_code == 200
    finally:
        browse.end()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--host", "nowhere"], "'nowhere' is no IP address"),
        (["--port", "70000"], "'70000' is no port"),
        (["--token-file", "absent"], "--token-file: absent cannot be read"),
        (["--token-file", "short"], "the token in short is too short"),
        (["--token-file", "open"], "others may read open; run chmod 600 open"),
        (["--config", "absent.yaml"], "absent.yaml: cannot be read"),
        (["--port", "taken"], "choose another --port"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: list[str], line: str) -> None:
    for name, mode in (("short", 0o600), ("open", 0o644)):
        (tmp_path / name).write_text("short")
        (tmp_path / name).chmod(mode)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        browse = Browse(tmp_path, *[port if option == "taken" else option for option in options])
        said = browse.process.communicate(timeout=60)[1]
    assert browse.process.returncode != 0
    assert line in said.strip().splitlines()[-1]
    assert "Traceback" not in said
