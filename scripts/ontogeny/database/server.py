"""The embedded database: one server process beside its files, which lives as long as somebody uses it.

A WiredTiger home takes one process, so whoever comes first starts the server and the others join it. Everything rests
on locks of files in the home, which the kernel drops when a process ends, however it ends:

- `clients.lock` is shared by all who use the server. The server stops when it can have the lock for itself: not before
  the last of them has ended, whoever started it, and soon after, however that one ended.
- `server.lock` is the server's as long as it lives. It inherits the lock from the command that started it, so no two
  start, and a new one waits until the files of the last are closed.
- `start.lock` belongs to whoever looks for the server or starts it.

`server.json` says where the server listens; one that a killed server left behind is never read.
"""

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from ontogeny.errors import UserError
from ontogeny.files import write_json
from ontogeny.memory import collect_as_usual

ADDRESS = "server.json"
CLIENTS = "clients.lock"
DATA = "data"
LOG = "server.log"
SERVER = "server.lock"
START = "start.lock"

START_SECONDS = 300.0
"""How long a server may take to open its files, recovery after a crash included."""
STOP_SECONDS = 120.0
"""How long it may take to close them; the next start recovers what was not closed."""
CLIENT_SECONDS = 0.5
"""How often the server looks whether anybody uses it."""
CACHE_SIZE = "256M"
"""WiredTiger's cache."""


class Address(NamedTuple):
    """Where the server of a home listens."""

    port: int
    """Port on 127.0.0.1."""
    pid: int
    """Its process."""
    machine: str
    """Name of the machine it runs on."""


@contextmanager
def serving(home: Path) -> Iterator[int]:
    """Yield the port of the server of `home`, started if there is none, and stop it after the last who used it.

    Args:
        home: folder of the database's files, made if need be.

    Raises:
        UserError: the server does not start, runs on another machine, or `home` cannot be written.
    """
    home = home.resolve()
    clients = _enter(home)
    try:
        with _lock(home / START, fcntl.LOCK_EX):
            address = _find_or_start(home)
        if address.machine != socket.gethostname():
            raise UserError(
                f"{home}: the embedded database is in use on {address.machine}, and serves one machine at a time; "
                "set database.uri to a mongodb:// server that all machines reach"
            )
        yield address.port
    finally:
        os.close(clients)
        _stop_unless_used(home)


def _enter(home: Path) -> int:
    """Take a share of the server, which no server can then stop, and return the descriptor that stands for it."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        clients = os.open(home / CLIENTS, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(clients, fcntl.LOCK_SH)
    except OSError as error:
        reason = "its file system has no locks" if error.errno in (errno.ENOTSUP, errno.ENOSYS) else error.strerror
        raise UserError(
            f"{home}: cannot hold the embedded database: {reason}; expected a local folder that can be written, "
            "or a mongodb:// address in database.uri"
        ) from error
    return clients


def _find_or_start(home: Path) -> Address:
    """Read where the server listens and start it first if none holds `server.lock`; the caller holds `start.lock`."""
    started = False
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        with suppress(BlockingIOError), _lock(home / SERVER, fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            if started:
                raise UserError(f"{home}: the embedded database does not start: {_last_line(home / LOG)}{_mend(home)}")
            (home / ADDRESS).unlink(missing_ok=True)
            _start(home, lock)
            started = True
        address = _address(home)
        if address:
            return address
        time.sleep(0.01)
    raise UserError(f"{home}: the embedded database has not started within {START_SECONDS:.0f} s{_mend(home)}")


def _start(home: Path, lock: int) -> None:
    """Start the server in a session of its own, out of reach of the terminal's Ctrl-C; it inherits `lock`."""
    with (home / LOG).open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", __name__, str(home)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
            check=False,
        )


def _stop_unless_used(home: Path) -> None:
    """Stop the server and wait until it is gone, unless somebody else uses it; nobody can join meanwhile."""
    with suppress(BlockingIOError, ProcessLookupError), _lock(home / CLIENTS, fcntl.LOCK_EX | fcntl.LOCK_NB):
        address = _address(home)
        if address and address.machine == socket.gethostname() and _is_locked(home / SERVER):
            os.kill(address.pid, signal.SIGTERM)
            with _lock(home / SERVER, fcntl.LOCK_SH):
                pass


@contextmanager
def _lock(path: Path, kind: int) -> Iterator[int]:
    """Hold a lock of `kind` on `path` and yield its descriptor; `BlockingIOError` where it may not wait and cannot."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        with _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


def _address(home: Path) -> Address | None:
    try:
        return Address(**json.loads((home / ADDRESS).read_text()))
    except FileNotFoundError:
        return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote no log"


def _mend(home: Path) -> str:
    return f"; {home / LOG} says more; if the files are damaged, remove {home / DATA} and ingest again"


def serve(home: Path) -> None:
    """Serve the files of `home` until nobody uses them or SIGTERM comes; runs in the server's own process."""
    # Imported here: the commands that start a server have no use for it.
    from secantus import SecantusDBServer  # type: ignore[import-untyped]

    signal.signal(signal.SIGTERM, _end)
    server = SecantusDBServer(
        host="127.0.0.1",
        port=0,
        storage_path=str(home / DATA),
        replica_set_name=None,
        enable_test_commands=False,
        ttl_sweep_seconds=0,
        cache_size=CACHE_SIZE,
        durable=True,
    )
    clients = os.open(home / CLIENTS, os.O_RDWR)
    try:
        server.start()
        write_json(home / ADDRESS, Address(server.port, os.getpid(), socket.gethostname())._asdict())
        while _is_used(clients):
            time.sleep(CLIENT_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (home / ADDRESS).unlink(missing_ok=True)
        _later(STOP_SECONDS, os._exit, 1)
        # Closing a socket does not wake the thread that waits on it for clients: a last client does.
        _later(0.05, socket.create_connection, ("127.0.0.1", server.port))
        server.stop()


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _is_used(clients: int) -> bool:
    """Tell whether anybody shares the server; if not, keep the lock, so that nobody joins any more."""
    try:
        fcntl.flock(clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _later(seconds: float, function: Callable[..., object], argument: object) -> None:
    timer = threading.Timer(seconds, function, (argument,))
    timer.daemon = True
    timer.start()


def main(home: Path) -> None:
    """Leave the process that was started, so that its end belongs to nobody's children, and serve."""
    if os.fork():
        os._exit(0)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    serve(home)


if __name__ == "__main__":
    collect_as_usual()
    main(Path(sys.argv[1]))
