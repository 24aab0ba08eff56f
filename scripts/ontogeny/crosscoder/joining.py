"""How the processes of a run find each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ontogeny.crosscoder.parallel import ALONE, Ranks, together, wait_for_the_end
from ontogeny.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others. Those that end are noticed at once; this is for those that hang, and longer
than the first process takes to write the largest state, for which the others wait."""


@contextmanager
def joined(data_ranks: int) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, as its environment says; without torchrun, stay alone.

    Args:
        data_ranks: processes among which the rows of a batch are divided; the sites are divided among as many as this
            number goes into all processes.

    Raises:
        UserError: on the first process, if `data_ranks` does not divide them, or a machine lacks CUDA devices.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        if data_ranks != 1:
            raise UserError(
                f"--data-ranks {data_ranks}: there is one process; start as many as are asked for by torchrun"
            )
        yield ALONE
        return
    local, cuda = int(os.environ["LOCAL_RANK"]), torch.cuda.is_available()
    devices = torch.cuda.device_count() if cuda else world
    if cuda and local < devices:
        torch.cuda.set_device(local)
    # What lies in host memory, such as states and flags, goes by gloo on every machine.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    _refuse(data_ranks < 1 or world % data_ranks, f"--data-ranks {data_ranks}: it does not divide {world} processes")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    _refuse(here > devices, f"{here} processes on a machine with {devices} CUDA devices: start one for each device")
    yield _grid(world // data_ranks, data_ranks, local)
    dist.destroy_process_group()


def _refuse(wrong: bool | int, message: str) -> None:
    """Let the first process alone say what is wrong on all of them."""
    if not wrong:
        return
    # All have to be here before the first one leaves: one that still looks for it would fail with words of its own.
    with together():
        dist.all_reduce(torch.zeros(1))
    if dist.get_rank() == 0:
        raise UserError(message)
    wait_for_the_end()


def _grid(site_ranks: int, data_ranks: int, local: int) -> Ranks:
    """Number the processes: those that work on the same rows, and talk most, are neighbours."""
    data, site = divmod(dist.get_rank(), site_ranks)
    # Every process has to name every group, in one order.
    site_groups = [
        dist.new_group([d * site_ranks + s for s in range(site_ranks)], timeout=TIMEOUT) for d in range(data_ranks)
    ]
    data_groups = [
        dist.new_group([d * site_ranks + s for d in range(data_ranks)], timeout=TIMEOUT) for s in range(site_ranks)
    ]
    return Ranks(site, site_ranks, data, data_ranks, local, site_groups[data], data_groups[site], os.getppid())
