"""What each feature does for a metric of a language model: attributions, and ablations that put them to the test.

At a site a dictionary reads x = x_hat + error. Here its features are the variables and all else is constant, the
decoder's bias and the error among it (Marks et al. 2024): x(f) = x - sum_i (f_i(x) - f_i) W_i, so that f = f(x) is the
model as it is, and f = 0 leaves the model with bias and error alone. W_i = W_dec[i, s] / a_s, in raw units.

A metric says something of items one by one, and items come in groups that belong together. Shapes: B items, T
positions, D channels, L latents, N entries of a code that fire.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ontogeny.crosscoder.active import Active, active_entries, inner_products, weighted_rows
from ontogeny.randomness import generator

Metric = Callable[[Tensor, Tensor], Tensor]
"""Of activations at the site, (M, T, D), and the numbers of their items, (M): the metric of each, (M)."""


class FeatureSum(NamedTuple):
    """What features add to a site at every position of some items."""

    code: Active
    """The entries that fire among rows (b, t), one row for each position of each item."""
    f_N: Tensor
    """Activation of each entry."""
    W_LD: Tensor
    """Decoder of the site, in raw units."""
    items: int
    """B."""

    def total(self, weight_N: Tensor | None = None) -> Tensor:
        """Sum features, each entry with a weight or with 1 (shape: [B, T, D])."""
        weighted_N = self.f_N if weight_N is None else self.f_N * weight_N
        added = weighted_rows(self.W_LD, self.code.latent_N, self.code.row_starts, weighted_N)
        return added.view(self.items, -1, self.W_LD.shape[1])

    def item_N(self) -> Tensor:
        """Number of the item that each entry is of."""
        positions = (len(self.code.row_starts) - 1) // self.items
        return self.code.flat_N // (len(self.W_LD) * positions)

    def over_positions(self, value_N: Tensor) -> Tensor:
        """Sum what belongs to each entry over the positions of an item (shape: [B, L])."""
        sums = value_N.new_zeros(self.items * len(self.W_LD))
        return sums.index_add_(0, self.item_N() * len(self.W_LD) + self.code.latent_N, value_N).view(self.items, -1)


def feature_sum(f_BTL: Tensor, W_LD: Tensor) -> FeatureSum:
    """Take a code apart into the entries that fire.

    Args:
        f_BTL: features at every position, 0 where a dictionary sees nothing.
        W_LD: decoder of the site, in raw units.
    """
    code = active_entries(f_BTL.flatten(0, 1) != 0)
    return FeatureSum(code, f_BTL.flatten()[code.flat_N], W_LD, len(f_BTL))


@torch.no_grad()
def metrics(metric: Metric, x_VBTD: Sequence[Tensor], at_once: int) -> Tensor:
    """Compute a metric of several variants of the same items, `at_once` texts in one call (shape: [V, B])."""
    x_MTD = torch.cat(list(x_VBTD))
    item_M = torch.arange(len(x_VBTD[0]), device=x_MTD.device).repeat(len(x_VBTD))
    parts = zip(torch.split(x_MTD, at_once), torch.split(item_M, at_once), strict=True)
    return torch.cat([metric(*part) for part in parts]).view(len(x_VBTD), -1)


def mean_gradient(
    metric: Metric, x_BTD: Tensor, removed_BTD: Tensor, points: Sequence[tuple[float, float]], at_once: int
) -> Tensor:
    """Average the metric's gradient at points from x - removed (0) to x (1).

    Args:
        metric: what is derived; that of an item does not depend on other items.
        x_BTD: activations at the site.
        removed_BTD: what is taken away from them at point 0.
        points: (point, weight) of each term of the average.
        at_once: texts in one call.

    Returns:
        (shape: [B, T, D]).
    """
    mean_BTD = torch.zeros_like(x_BTD)
    item_M = torch.arange(len(x_BTD), device=x_BTD.device).repeat(len(points))
    point_M = x_BTD.new_tensor([point for point, _ in points]).repeat_interleave(len(x_BTD))
    weight_M = x_BTD.new_tensor([weight for _, weight in points]).repeat_interleave(len(x_BTD))
    for item, point, weight in zip(
        *(torch.split(numbers, at_once) for numbers in (item_M, point_M, weight_M)), strict=True
    ):
        at = (x_BTD[item] - (1 - point)[:, None, None] * removed_BTD[item]).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(metric(at, item).sum(), at)
        mean_BTD.index_add_(0, item, weight[:, None, None] * gradient)
    return mean_BTD


def activation_x_gradient(metric: Metric, x_BTD: Tensor, features: FeatureSum, at_once: int) -> Tensor:
    """Attribute a metric to features by f_i times the derivative of the metric by f_i, summed over positions.

    It is what the metric loses without the feature, to first order.

    Returns:
        (shape: [B, L]), in units of the metric.
    """
    return _attributed(features, mean_gradient(metric, x_BTD, features.total(), [(1.0, 1.0)], at_once))


def integrated_gradients(metric: Metric, x_BTD: Tensor, features: FeatureSum, steps: int, at_once: int) -> Tensor:
    """Attribute a metric to features by integrated gradients from f = 0 to f(x) (Sundararajan et al. 2017).

    Along the straight path x moves in one direction, so one average of gradients serves all features. The integral is
    a Gauss-Legendre quadrature; summed over features it is metric(f(x)) - metric(0), but for its error.

    Returns:
        (shape: [B, L]), in units of the metric.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    points = [((1 + float(node)) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]
    return _attributed(features, mean_gradient(metric, x_BTD, features.total(), points, at_once))


def _attributed(features: FeatureSum, gradient_BTD: Tensor) -> Tensor:
    along_N = inner_products(gradient_BTD.flatten(0, 1), features.W_LD, features.code)
    return features.over_positions(features.f_N * along_N)


def strength(features: FeatureSum) -> Tensor:
    """Sum over positions the norm of what each feature adds, f_i ||W_i|| (shape: [B, L])."""
    return features.over_positions(features.f_N * features.W_LD.norm(dim=1)[features.code.latent_N])


def held_out_ranks(score_BL: Tensor, group_B: Tensor) -> Tensor:
    """Rank features for each item by their mean score on others: groups of even number by those of odd, and conversely.

    An item says nothing of the features that are tried on it, so that chance makes no feature look as if it mattered.

    Returns:
        Rank from 0, of the highest score, (shape: [B, L]); of equal scores the feature of lower number comes first.
    """
    odd_B = group_B % 2 == 1
    rank_BL = torch.empty(score_BL.shape, dtype=torch.int64, device=score_BL.device)
    for fold_B in (odd_B, ~odd_B):
        rank_BL[fold_B] = _ranks(score_BL[~fold_B].mean(0))
    return rank_BL


def random_ranks(score_BL: Tensor, seed: int, *counters: int | str) -> Tensor:
    """Rank features by chance, anew for each item, those that fire on any item before all others (shape: [B, L])."""
    fires_L = (score_BL != 0).any(0).cpu()
    ranks = []
    for item in range(len(score_BL)):
        draws_L = torch.from_numpy(generator(seed, "random-features", *counters, item).random(len(fires_L)))
        ranks.append(_ranks(draws_L + fires_L))
    return torch.stack(ranks).to(score_BL.device)


def _ranks(score_L: Tensor) -> Tensor:
    order_L = torch.sort(score_L, descending=True, stable=True).indices
    return torch.empty_like(order_L).index_copy_(0, order_L, torch.arange(len(order_L), device=order_L.device))


def ablations(
    metric: Metric, x_BTD: Tensor, features: FeatureSum, rank_BL: Tensor, ks: Sequence[int], at_once: int
) -> tuple[Tensor, Tensor]:
    """Take the first k features away, or all features but these.

    Args:
        metric: what is measured.
        x_BTD: activations at the site.
        features: what they are made of, but for bias and error, which stay.
        rank_BL: rank of each feature, for each item.
        ks: numbers of features.
        at_once: texts in one call.

    Returns:
        The metric without the first k features, and that with these alone, (shape: [K, B]) each.
    """
    rank_N = rank_BL[features.item_N(), features.code.latent_N]
    first = [features.total((rank_N < k).to(features.f_N)) for k in ks]
    without_BTD = x_BTD - features.total()
    found = metrics(metric, [*(x_BTD - own for own in first), *(without_BTD + own for own in first)], at_once)
    return found[: len(ks)], found[len(ks) :]


def over_groups(value: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Average over items, with the standard error of the mean over groups, which are of one size.

    Args:
        value: one or several numbers of each item (shape: [B, ...]).
        group_B: number of each item's group, from 0.

    Returns:
        Mean and standard error, float64 (shape: [...] each); the latter is not a number where there is one group.
    """
    groups = int(group_B.max()) + 1
    sums = value.new_zeros(groups, *value.shape[1:], dtype=torch.float64).index_add_(0, group_B, value.double())
    means = sums * (groups / len(value))
    return means.mean(0), means.std(0) / groups**0.5
