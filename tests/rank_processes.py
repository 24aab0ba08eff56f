"""Several processes that work on one run, forked from a test, which is faster than starting them anew."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ontogeny.crosscoder.joining import joined
from ontogeny.crosscoder.parallel import ALONE, LostRank, Ranks
from ontogeny.errors import UserError

Work = Callable[[Ranks], Any]
"""What a process does; it returns tensors and plain values."""


def in_processes(processes: int, data_ranks: int, work: Work, folder: Path) -> list[Any]:
    """Run `work` in so many processes and return what each of them returned, in the order of their numbers.

    One process is this one. What a process is refused with counts as returned: the text of a UserError, or how it ends
    after another one.
    """
    if processes == 1:
        return [work(ALONE)]
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    port = free_port()
    arguments = [(number, processes, data_ranks, port, work, folder) for number in range(processes)]
    started = [context.Process(target=_work, args=each) for each in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode == 0, f"a process ended with {process.exitcode}"
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(processes)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _work(number: int, processes: int, data_ranks: int, port: int, work: Work, folder: Path) -> None:
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK=str(number),
        WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        with joined(data_ranks) as ranks:
            returned = work(ranks)
    except UserError as error:
        returned = str(error)
    except LostRank as error:
        returned = f"ends with code {error.code}"
    torch.save(returned, folder / f"{number}.pt")
