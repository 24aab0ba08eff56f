"""Commands that hold the embedded database open, as processes that can be killed."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"

HOLD = """
import sys
from pathlib import Path
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
with connect(DatabaseSettings(), Path(sys.argv[1])) as database:
    print("ready", flush=True)
    for line in sys.stdin:
        exec(line)
        print("done", flush=True)
"""


class Command:
    """A process that joins the database of `home` and then runs the lines that it is sent."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(home)],
            cwd=SCRIPTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ready(self) -> "Command":
        assert self._answer() == "ready", self.process.stderr and self.process.stderr.read()
        return self

    def run(self, line: str) -> None:
        self.send(line)
        assert self._answer() == "done", self.process.stderr and self.process.stderr.read()

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Let it come to its end; return what it said on standard error."""
        return self.process.communicate(timeout=60)[1]

    def kill(self, signal: int) -> None:
        os.killpg(self.process.pid, signal)
        self.end()

    def _answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


def server_runs(home: Path) -> bool:
    """Tell whether a server has the files of `home` open."""
    with (home / "server.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def server_pid(home: Path) -> int:
    return int(json.loads((home / "server.json").read_text())["pid"])


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "this never came true"
        time.sleep(0.02)
