"""One run in several processes: a grid of *site ranks*, which own sites, and *data ranks*, which own rows of a batch.

A site rank holds the encoder, decoder, decoder bias, scales, centers and moments of Adam of a contiguous slice of the
sites, and reads their shards alone. Encoder bias and thresholds are on every rank, with the same bits. Two passes of
(B, L) go between site ranks in a step: pre-activations forward, and the gradient of the code backward. Data ranks
average gradients.

With one process every function here gives back what it got, so that a plain run does nothing else than it would alone.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup, ReduceOp

from ontogeny.errors import UserError, first_line

log = logging.getLogger("ontogeny")

ValueT = TypeVar("ValueT")


class LostRank(SystemExit):
    """Another process of the run has ended and has said why; this one ends with code 1 and without a traceback."""

    def __init__(self) -> None:
        super().__init__(1)


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train a run, and what it does together with them.

    Raises:
        LostRank: in every method that talks to other processes, if one of them has ended.
    """

    site: int = 0
    """Number of this process among those that work on the same rows."""
    site_ranks: int = 1
    """Processes among which the sites are divided."""
    data: int = 0
    """Number of this process among those that own the same sites."""
    data_ranks: int = 1
    """Processes among which the rows of a batch are divided."""
    local: int = 0
    """Number of this process on its machine, and of its CUDA device."""
    site_group: ProcessGroup | None = None
    """The processes that work on the same rows."""
    data_group: ProcessGroup | None = None
    """The processes that own the same sites."""
    launcher: int = 0
    """Process that started this one; 0 for a run of one process."""

    @property
    def number(self) -> int:
        """Number of this process among all."""
        return self.data * self.site_ranks + self.site

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.site_ranks * self.data_ranks

    @property
    def first(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.number == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cuda", self.local) if torch.cuda.is_available() else torch.device("cpu")

    def own_sites(self, sites: int, site_rank: int | None = None) -> slice:
        """Say which of `sites` sites a site rank owns, this process if none is named; no two slices differ by two."""
        rank = self.site if site_rank is None else site_rank
        return slice(rank * sites // self.site_ranks, (rank + 1) * sites // self.site_ranks)

    def own_rows(self, rows: int) -> slice:
        """Say which rows of a batch this process works on; `rows` is a multiple of the data ranks."""
        own = rows // self.data_ranks
        return slice(self.data * own, (self.data + 1) * own)

    def sum_over_sites(self, tensor: Tensor) -> Tensor:
        """Add what all site ranks have, in place and with the same bits on all of them."""
        return self._reduce(tensor, ReduceOp.SUM, self.site_ranks, self.site_group)

    def max_over_sites(self, tensor: Tensor) -> Tensor:
        """Take the largest of what all site ranks have, in place."""
        return self._reduce(tensor, ReduceOp.MAX, self.site_ranks, self.site_group)

    def norm_over_sites(self, norm: Tensor) -> Tensor:
        """Turn norms over the sites of each rank into norms over all sites."""
        return norm if self.site_ranks == 1 else self.sum_over_sites(norm.square()).sqrt()

    def summed_over_sites(self, tensor: Tensor) -> Tensor:
        """Add what all site ranks have; each gets back the gradient of the sum, which all of them have whole."""
        return tensor if self.site_ranks == 1 else _Reduced.apply(tensor, self.sum_over_sites)  # type: ignore[no-untyped-call]

    def shared_by_sites(self, tensor: Tensor) -> Tensor:
        """Give back what all site ranks have alike; its gradient is the sum of theirs."""
        return tensor if self.site_ranks == 1 else _Shared.apply(tensor, self)  # type: ignore[no-untyped-call]

    def averaged_over_data(self, tensor: Tensor) -> Tensor:
        """Average what all data ranks have; each gets back the gradient of the average, as gradients are averaged."""
        return tensor if self.data_ranks == 1 else _Reduced.apply(tensor, self.mean_over_data)  # type: ignore[no-untyped-call]

    def mean_over_data(self, tensor: Tensor) -> Tensor:
        """Average what all data ranks have, in place and with the same bits on all of them."""
        if self.data_ranks == 1:
            return tensor
        return self._reduce(tensor, ReduceOp.SUM, self.data_ranks, self.data_group).div_(self.data_ranks)

    def any_over_data(self, flags: Tensor) -> Tensor:
        """Say for each flag whether some data rank has it."""
        if self.data_ranks == 1:
            return flags
        return self._reduce(flags.to(torch.uint8), ReduceOp.MAX, self.data_ranks, self.data_group).bool()

    def gathered_over_data(self, tensor_n: Tensor) -> Tensor:
        """Put what data ranks have one after the other (shape: [n] to [data ranks x n])."""
        if self.data_ranks == 1:
            return tensor_n
        gathered_Rn = tensor_n.new_empty(self.data_ranks, len(tensor_n))
        with together():
            dist.all_gather(list(gathered_Rn), tensor_n.contiguous(), group=self.data_group)
        return gathered_Rn.flatten()

    def like_first_site(self, tensor: Tensor) -> Tensor:
        """Take over, in place, the bits of the first of the site ranks."""
        return self._broadcast(tensor, self.data * self.site_ranks, self.site_ranks, self.site_group)

    def like_first(self, tensor: Tensor) -> Tensor:
        """Take over, in place, the bits of the first of all processes."""
        return self._broadcast(tensor, 0, self.world, None)

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over site ranks and average over data ranks, in place and with the same bits on all processes."""
        if self.world == 1:
            return tensor
        return self._reduce(tensor, ReduceOp.SUM, self.world, None).div_(self.data_ranks)

    def anywhere(self, flags: Tensor) -> Tensor:
        """Say for each flag whether some process has it."""
        if self.world == 1:
            return flags
        return self._reduce(flags.to(torch.uint8), ReduceOp.MAX, self.world, None).bool()

    def agree(self, flag: bool) -> bool:
        """Say on every process whether one of them says so.

        Raises:
            LostRank: also if the process that started this one has ended: another run may be under way.
        """
        if self.world == 1:
            return flag
        if os.getppid() != self.launcher:
            log.warning("process %d of %d ends, because torchrun has ended", self.number + 1, self.world)
            raise LostRank
        return bool(self.anywhere(torch.tensor([flag])))

    def everyones(self, value: ValueT) -> list[ValueT]:
        """Collect one small value of every process, in the order of their numbers."""
        if self.world == 1:
            return [value]
        values = [value] * self.world
        with together():
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.agree(False)

    @contextmanager
    def one_error(self) -> Iterator[None]:
        """Run a block on every process; if it is refused on some of them, one alone raises its error.

        Nothing in the block may wait for other processes.
        """
        if self.world == 1:
            yield
            return
        caught: UserError | None = None
        try:
            yield
        except UserError as error:
            caught = error
        refused = self.everyones(caught is not None)
        if caught is not None and refused.index(True) == self.number:
            raise caught
        if any(refused):
            wait_for_the_end()

    def _reduce(self, tensor: Tensor, operation: ReduceOp.RedOpType, ranks: int, group: ProcessGroup | None) -> Tensor:
        if ranks > 1:
            with together():
                dist.all_reduce(tensor, operation, group=group)
        return tensor

    def _broadcast(self, tensor: Tensor, source: int, ranks: int, group: ProcessGroup | None) -> Tensor:
        if ranks > 1:
            with together():
                dist.broadcast(tensor, source, group=group)
        return tensor


ALONE = Ranks()
"""One process for the whole run."""


def wait_for_the_end() -> None:
    """Wait until the process that raises the error of all has ended, and end likewise."""
    with suppress(RuntimeError):
        dist.all_reduce(torch.zeros(1))
    raise LostRank


@contextmanager
def together() -> Iterator[None]:
    """Turn the failure of a step that all processes take together into the end of this one."""
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error).partition(". ")[0]
        log.warning("process %d ends, because another one has ended (%s)", dist.get_rank() + 1, reason)
        raise LostRank from error


class _RanksContext(Protocol):
    ranks: Ranks


class _Reduced(Function):
    @staticmethod
    def forward(_ctx: object, tensor: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        return reduce(tensor.clone())

    @staticmethod
    def backward(_ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Shared(Function):
    @staticmethod
    def forward(ctx: _RanksContext, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: _RanksContext, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum_over_sites(gradients[0].clone(memory_format=torch.contiguous_format)), None
