"""Streamed activations: models run in processes beside this one, and their activations stay in memory.

There is one process for each thread, or one that uses the GPU of this process. Each works on checkpoints of its own, so
that it keeps their models from one group of shards to the next.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from subprocess import DEVNULL, Popen
from threading import Lock, Thread
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from ontogeny.activations.rows import describe_rows
from ontogeny.activations.source import Opener
from ontogeny.activations.statistics import read_statistics
from ontogeny.activations.store import AlignedShard, Shard, align
from ontogeny.activations.worker import Task, rows_file
from ontogeny.config.streamed import FILE, StreamedSettings
from ontogeny.errors import UserError
from ontogeny.hdf5 import MEND, Arrays
from ontogeny.sites import Site

log = logging.getLogger("ontogeny")

SCRIPTS = Path(__file__).parents[2]

ROWS_RUN = "models ran over %d rows, those of each checkpoint counted"
"""What the log says when models have ended."""

Answer = Future[tuple[Shard, ...]]
"""One shard of the sites of a task, once it is there."""


class StreamedShards:
    """Shards that no disk holds: each is made when it is asked for, or just before, and forgotten when it was read."""

    def __init__(self, folder: Path, sites: Sequence[Site], shards: Sequence[str]) -> None:
        """Read how activations are made; nothing runs yet.

        Args:
            folder: folder of `streamed.json`, rows and statistics.
            sites: the site axis, in order.
            shards: names of shards, such as `train-00000`.

        Raises:
            UserError: `streamed.json` is damaged.
        """
        self._folder, self._sites, self._shards = folder, tuple(sites), tuple(shards)
        self._settings = read_settings(folder / FILE)
        # Of the thread that trains, which may have been given another device than the one that reads ahead.
        self._device = torch.cuda.current_device() if torch.cuda.is_available() else None
        self._processes = torch.get_num_threads() if self._device is None else 1
        self._lock = Lock()
        self._workers: list[_Worker] = []
        self._closed = 0
        self._known: WeakValueDictionary[int, _Pending] = WeakValueDictionary()
        # What was asked for last: whoever comes next begins where another one has looked.
        self._kept: list[_Pending] = []

    def rows(self) -> list[int]:
        """Count the rows of each shard, from the files of rows."""
        return [describe_rows(rows_file(self._folder, shard)).rows for shard in self._shards]

    def described(self) -> list[AlignedShard]:
        """Say what each shard holds; widths are those of the statistics.

        Raises:
            UserError: rows or statistics are missing or damaged, or sites differ in width.
        """
        files = [self._folder / site.key / "statistics.json" for site in self._sites]
        widths = [len(read_statistics(file).mean) for file in files]
        for file, width in zip(files, widths, strict=True):
            if width != widths[0]:
                raise UserError(
                    f"{file}: the site has {width} channels, but {widths[0]} are those of {files[0]}; sites of one "
                    "dictionary share one width: choose other hooks"
                )
        rows = [describe_rows(rows_file(self._folder, shard)) for shard in self._shards]
        return [AlignedShard((), own.rows, widths[0], own.hash) for own in rows]

    def opener(self, groups: Iterable[Sequence[int]], verify: bool = True) -> Opener:
        """Begin to read: the next group is made while the present one is read. `verify` has nothing to read here."""
        del verify
        upcoming = iter(groups)
        current: Sequence[int] = ()
        following = next(upcoming, ())
        held: dict[int, _Pending] = {}
        closed = self._closed

        def open_number(number: int) -> AlignedShard:
            nonlocal current, following, held
            while number not in current:
                current, following = following, next(upcoming, ())
                held = self._hold((current, following), held, closed)
            return held[number].result(self._sites)

        return open_number

    def close(self) -> None:
        """End the processes and log what they have done; whoever waits for them gets a CancelledError."""
        with self._lock:
            self._closed += 1
            workers, self._workers, self._kept = self._workers, [], []
            self._known.clear()
        for worker in workers:
            worker.end()
        if workers:
            log.info(ROWS_RUN, sum(worker.rows for worker in workers))

    def _hold(self, groups: Iterable[Sequence[int]], held: dict[int, "_Pending"], closed: int) -> dict[int, "_Pending"]:
        """Keep the shards of some groups, of those that are held or known to others, and have the rest made."""
        found = dict[int, _Pending]()
        with self._lock:
            if closed != self._closed:
                raise CancelledError
            for numbers in groups:
                # Two groups may have shards in common, as those of two epochs have.
                known = held | dict(self._known) | found
                there = {n: known[n] for n in numbers if n in known}
                found |= there | self._make([n for n in numbers if n not in there])
            self._known.update(found)
            self._kept = list(found.values())
        return found

    def _make(self, numbers: Sequence[int]) -> dict[int, "_Pending"]:
        """Deal out shards among the processes, each of which gets neighbouring checkpoints."""
        sites_of = {key: tuple(sites) for key, sites in groupby(sorted(self._sites), key=lambda site: site.checkpoint)}
        tasks = [
            (n, Task(self._folder, self._settings, sites, self._shards[n]))
            for sites in sites_of.values()
            for n in numbers
        ]
        if tasks and not self._workers:
            self._workers = [_Worker(self._device) for _ in range(min(self._processes, len(tasks)))]
        answers: dict[int, list[Answer]] = {n: [] for n in numbers}
        for place, (number, task) in enumerate(tasks):
            answers[number].append(self._workers[place * len(self._workers) // len(tasks)].ask(task))
        return {n: _Pending(tuple(own)) for n, own in answers.items()}


@dataclass(frozen=True, eq=False)
class _Pending:
    """A shard that is there or under way."""

    answers: tuple[Answer, ...]
    """One for each checkpoint."""

    def result(self, sites: Sequence[Site]) -> AlignedShard:
        """Wait for all sites."""
        shards = {shard.site: shard for answer in self.answers for shard in answer.result()}
        return align([shards[site] for site in sites])


class _Worker:
    """A process that runs models, and the thread of this process that talks to it."""

    def __init__(self, device: int | None) -> None:
        self._connection, theirs = Pipe()
        self._tasks: SimpleQueue[tuple[Task, Answer] | None] = SimpleQueue()
        self._wanted = True
        self.rows = 0
        path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "ontogeny.activations.worker", str(theirs.fileno())]
        command += [] if device is None else [str(device)]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        with theirs, _without_signals():
            self._process = Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=DEVNULL)
        Thread(target=self._serve, name="models", daemon=True).start()

    def ask(self, task: Task) -> Answer:
        """Put a task behind those that were asked for before."""
        answer = Answer()
        self._tasks.put((task, answer))
        return answer

    def end(self) -> None:
        """Kill the process, which holds nothing that is wanted any more."""
        self._wanted = False
        self._process.kill()
        self._process.wait()
        self._tasks.put(None)

    def _serve(self) -> None:
        while item := self._tasks.get():
            task, answer = item
            try:
                shards = _exchange(self._connection, task)
                self.rows += shards[0].rows
                answer.set_result(shards)
            except UserError as error:
                answer.set_exception(error)
            except (EOFError, OSError):
                if not self._wanted:
                    answer.cancel()
                    continue
                where, code = task.sites[0].checkpoint, self._process.wait()
                # A process that is out of memory is killed, and says nothing.
                cure = "give the job more memory" if code == -signal.SIGKILL else "its own message is above in this log"
                answer.set_exception(UserError(f"{where}: the process that runs it has ended with code {code}; {cure}"))
            # Nothing here keeps a shard in memory while this one waits for the next task.
            shards = ()
            del item, task, answer
        self._connection.close()


def read_settings(file: Path) -> StreamedSettings:
    """Read `streamed.json`.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return StreamedSettings.model_validate_json(file.read_bytes())
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{file}: it does not say how activations are read ({reason}); {MEND}") from None


def _exchange(connection: Connection, task: Task) -> tuple[Shard, ...]:
    """Send a task, and receive its shards."""
    connection.send(task)
    described = connection.recv()
    if isinstance(described, str):
        raise UserError(described)
    rows_hash = describe_rows(rows_file(task.folder, task.shard)).hash
    shards = []
    for site, arrays_of_site in zip(task.sites, described, strict=True):
        arrays = {name: _received(connection, dtype, shape) for name, dtype, shape in arrays_of_site}
        path = task.folder / site.key / task.shard
        rows, d_model = arrays["activations"].shape
        shards.append(Shard(path, site, rows, d_model, rows_hash, Arrays(path, arrays, {})))
    return tuple(shards)


def _received(connection: Connection, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Receive an array where it is to stay."""
    array = np.empty(shape, dtype)
    left = array.data.cast("B")
    while left:
        count = os.readv(connection.fileno(), [left])
        if count == 0:
            raise EOFError
        left = left[count:]
    return array


@contextmanager
def _without_signals() -> Iterator[None]:
    """Let a process that begins here not be ended by what is sent to a whole group: this one decides about it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
