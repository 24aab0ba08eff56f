import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from database_commands import Command, server_pid, server_runs, wait_until
from pymongo.database import Database

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.server import serving
from ontogeny.errors import UserError

ENDS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
INSERT = "database.kept.insert_many([{'_id': n} for n in range(%d, %d)])"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose server is gone when the test is over, whatever became of the test."""
    yield tmp_path / "server"
    wait_until(lambda: not (tmp_path / "server/server.lock").exists() or not server_runs(tmp_path / "server"))


def opened(home: Path) -> Any:
    return connect(DatabaseSettings(), home)


def count(database: Database[Any]) -> int:
    return database.kept.count_documents({})


def test_the_server_is_gone_when_the_command_ends_and_its_documents_are_there_again(home: Path) -> None:
    with opened(home) as database:
        database.kept.insert_one({"_id": 1})
        port = int(json.loads((home / "server.json").read_text())["port"])
        assert server_runs(home)
    assert not server_runs(home)
    with socket.socket() as late:
        assert late.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
    with opened(home) as database:
        assert count(database) == 1


def test_the_server_is_gone_after_an_exception(home: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(home):
        raise ZeroDivisionError
    assert not server_runs(home)


@pytest.mark.parametrize("end", ENDS)
def test_the_server_does_not_outlive_a_killed_command(home: Path, end: signal.Signals) -> None:
    command = Command(home).ready()
    command.run(INSERT % (0, 100))
    assert server_runs(home)
    command.kill(end)
    wait_until(lambda: not server_runs(home), seconds=10)
    with opened(home) as database:
        assert count(database) == 100


@pytest.mark.parametrize("end", [None, *ENDS])
def test_whoever_started_the_server_may_end_while_others_use_it(home: Path, end: signal.Signals | None) -> None:
    first = Command(home).ready()
    pid = server_pid(home)
    second = Command(home).ready()
    assert server_pid(home) == pid
    start = time.monotonic()
    first.kill(end) if end else first.end()
    assert time.monotonic() - start < 5, "the first waited for the second"
    time.sleep(1.0)
    second.run(INSERT % (0, 50))
    assert server_pid(home) == pid
    assert second.end() == ""
    wait_until(lambda: not server_runs(home), seconds=10)


def test_the_server_outlives_the_thread_that_opened_it(home: Path) -> None:
    context = opened(home)
    opener = threading.Thread(target=context.__enter__)
    opener.start()
    opener.join()
    time.sleep(1.0)
    with opened(home) as database:
        database.kept.insert_one({})
    assert server_runs(home)
    context.__exit__(None, None, None)
    assert not server_runs(home)


def test_a_killed_server_is_one_line_and_loses_nothing_before_a_durable_write(home: Path) -> None:
    command = Command(home).ready()
    command.run(INSERT % (0, 1999))
    command.run("from ontogeny.database.connect import DURABLE")
    command.run("database.kept.with_options(write_concern=DURABLE).insert_one({})")
    # Held until the write is under way: a heartbeat of the client that came first would find it gone, not going.
    os.kill(server_pid(home), signal.SIGSTOP)
    command.send(INSERT % (2000, 2001))
    time.sleep(1)
    os.kill(server_pid(home), signal.SIGKILL)
    said = command.end()
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"ontogeny.errors.UserError: {home}: the embedded database went away while it was used")
    assert (home / "server.json").exists(), "nothing stale to be misled by"
    with opened(home) as database:
        assert count(database) == 2000
    assert not (home / "server.json").exists()


def test_a_server_that_is_asked_to_stop_closes_its_files(home: Path) -> None:
    command = Command(home).ready()
    command.run(INSERT % (0, 500))
    os.kill(server_pid(home), signal.SIGTERM)
    wait_until(lambda: not server_runs(home))
    assert not (home / "server.json").exists()
    command.kill(signal.SIGKILL)
    with opened(home) as database:
        assert count(database) == 500


def test_many_commands_at_once_share_one_server(home: Path) -> None:
    commands = [Command(home) for _ in range(5)]
    for number, command in enumerate(commands):
        command.ready().run(INSERT % (100 * number, 100 * (number + 1)))
    with opened(home) as database:
        assert count(database) == 500
        for command in commands:
            assert command.end() == ""
    assert (home / "server.log").read_text().count("listening") == 1


def test_nobody_reads_where_a_killed_server_listened_while_another_starts(home: Path) -> None:
    home.mkdir()
    found: Queue[int] = Queue()

    def join() -> None:
        with serving(home) as port:
            found.put(port)

    with (
        subprocess.Popen(["sleep", "60"]) as server,
        (home / "server.lock").open("w") as running,
        (home / "start.lock").open("w") as starting,
    ):
        fcntl.flock(running, fcntl.LOCK_EX)
        fcntl.flock(starting, fcntl.LOCK_EX)
        address = {"port": 1, "pid": server.pid, "machine": socket.gethostname()}
        (home / "server.json").write_text(json.dumps(address))
        joining = threading.Thread(target=join)
        joining.start()
        with pytest.raises(Empty):
            found.get(timeout=0.5)
        (home / "server.json").write_text(json.dumps({**address, "port": 2}))
        fcntl.flock(starting, fcntl.LOCK_UN)
        assert found.get(timeout=10) == 2
        server.terminate()
    joining.join()


def test_servers_that_stop_and_start_under_coming_and_going_commands_lose_nothing(home: Path) -> None:
    def come_and_go(number: int) -> None:
        for turn in range(6):
            with opened(home) as database:
                database.kept.insert_one({"_id": f"{number}-{turn}"})

    with ThreadPoolExecutor() as threads:
        list(threads.map(come_and_go, range(4)))
    with opened(home) as database:
        assert count(database) == 24


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/server: cannot hold the embedded database: Not a directory; expected"),
        opened(tmp_path / "file" / "server"),
    ):
        pass


def test_damaged_files_are_one_line_that_names_the_log(home: Path) -> None:
    with opened(home) as database:
        database.kept.insert_one({})
    for file in (home / "data").glob("WiredTiger*"):
        file.write_bytes(b"not a database")
    with pytest.raises(UserError) as raised, opened(home):
        pass
    said = str(raised.value)
    assert said.startswith(f"{home}: the embedded database does not start: ")
    assert said.endswith(f"{home}/server.log says more; if the files are damaged, remove {home}/data and ingest again")
    assert "\n" not in said


def test_a_home_in_use_on_another_machine_is_one_line(home: Path) -> None:
    home.mkdir()
    with (home / "server.lock").open("w") as server:
        fcntl.flock(server, fcntl.LOCK_EX)
        (home / "server.json").write_text(json.dumps({"port": 1, "pid": os.getpid(), "machine": "elsewhere"}))
        with (
            pytest.raises(UserError, match=r"in use on elsewhere, and serves one machine at a time; set database\.uri"),
            opened(home),
        ):
            pass


def test_the_server_listens_to_this_machine_only(home: Path) -> None:
    with serving(home) as port, socket.socket() as outside:
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127.0.0.1"):
            assert outside.connect_ex((address, port)) == errno.ECONNREFUSED
        ours = [
            line.split()[1]
            for line in Path("/proc/net/tcp").read_text().splitlines()
            if f":{port:04X} 00000000:0000" in line
        ]
        assert ours == [f"0100007F:{port:04X}"]
