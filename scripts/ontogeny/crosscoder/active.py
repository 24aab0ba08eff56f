"""The entries of a code that fire, and the products that touch nothing else.

All sums are in float32 whatever the precision of a run: here memory sets the pace, and not arithmetic. A sum has one
order, that of rows or of latents, so that its bits do not depend on the number of threads.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Active(NamedTuple):
    """The N entries of a code (shape: [B, L]) that fire, row by row and again latent by latent."""

    flat_N: Tensor
    """b L + i of every entry, ascending."""
    latent_N: Tensor
    """i of every entry."""
    row_starts: Tensor
    """Where each row begins among the entries, and their number at the end (shape: [B + 1])."""
    by_latent_N: Tensor
    """The entries ordered by latent, and by row within a latent."""
    row_by_latent_N: Tensor
    """b of every entry, ordered by latent."""
    latent_starts: Tensor
    """Where each latent begins in that order (shape: [L + 1])."""


def active_entries(firing_BL: Tensor) -> Active:
    """List the entries that fire.

    Args:
        firing_BL: which do (shape: [B, L], bool).
    """
    rows, latents = firing_BL.shape
    flat_N = firing_BL.view(-1).nonzero().flatten()
    latent_N = flat_N % latents
    row_N = flat_N // latents
    by_latent_N = torch.sort(latent_N, stable=True).indices
    return Active(flat_N, latent_N, _starts(row_N, rows), by_latent_N, row_N[by_latent_N], _starts(latent_N, latents))


def weighted_rows(table_NV: Tensor, chosen_N: Tensor, starts: Tensor, weight_N: Tensor) -> Tensor:
    """Sum chosen rows of a table, each with a weight, bag by bag.

    Args:
        table_NV: rows to choose from (shape: [n, V]).
        chosen_N: numbers of rows, all bags one after the other (shape: [N]).
        starts: where each bag begins, and N at the end (shape: [bags + 1]).
        weight_N: a weight for every row chosen (shape: [N]).

    Returns:
        (shape: [bags, V]). Equal to the product of a sparse matrix of weights (shape: [bags, n]) and the table.
    """
    return functional.embedding_bag(
        chosen_N, table_NV, starts, mode="sum", per_sample_weights=weight_N, include_last_offset=True
    )


def inner_products(a_BV: Tensor, b_LV: Tensor, active: Active) -> Tensor:
    """Multiply row b of one matrix by row i of another for every active entry (b, i).

    Args:
        a_BV: (shape: [B, V]).
        b_LV: (shape: [L, V]).
        active: the entries.

    Returns:
        (shape: [N]). Equal to `(a_BV @ b_LV.T).view(-1)[active.flat_N]`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        pattern_BL = torch.sparse_csr_tensor(
            active.row_starts,
            active.latent_N,
            a_BV.new_zeros(len(active.latent_N)),
            (len(a_BV), len(b_LV)),
            check_invariants=False,
        )
        products_BL: Tensor = torch.sparse.sampled_addmm(pattern_BL, a_BV, b_LV.T, beta=0.0)
        return products_BL.values()


def summed_by_latent(value_N: Tensor, active: Active) -> Tensor:
    """Sum what belongs to each latent (shape: [N, ...] to [L, ...])."""
    latents = len(active.latent_starts) - 1
    return value_N.new_zeros(latents, *value_N.shape[1:]).index_add_(0, active.latent_N, value_N)


def _starts(sorted_or_not_N: Tensor, bags: int) -> Tensor:
    """Say where each bag begins once entries are in the order of bags (shape: [bags + 1])."""
    starts = torch.zeros(bags + 1, dtype=torch.int64, device=sorted_or_not_N.device)
    torch.cumsum(torch.bincount(sorted_or_not_N, minlength=bags), 0, out=starts[1:])
    return starts
