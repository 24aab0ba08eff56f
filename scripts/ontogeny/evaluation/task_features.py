"""What the features of a dictionary do for tasks, at every checkpoint of a language model."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ontogeny.config.evaluation import TaskSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.attribution import (
    FeatureSum,
    Metric,
    ablations,
    activation_x_gradient,
    feature_sum,
    held_out_ranks,
    integrated_gradients,
    metrics,
    over_groups,
    random_ranks,
    strength,
)
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.encoding import sparse_code
from ontogeny.evaluation.tasks import Task
from ontogeny.language_model.bridge import hooked_activations
from ontogeny.language_model.continuation import Continuation
from ontogeny.sites import Site


class Score(NamedTuple):
    """One number of a task at a site."""

    metric: str
    """Name of the metric."""
    value: float
    """Its mean over items."""
    standard_error: float
    """Standard error of the mean over groups of items."""
    chance: float
    """What it is for a model that does not do the task; not a number where that has no meaning."""


class Ablation(NamedTuple):
    """The metric of a task with some features taken away, or with these alone."""

    ranking: str
    """What chose the features: `attribution`, `activation` or `random`."""
    features: str
    """What became of them: `ablated` or `kept`."""
    k: int
    """How many there are."""
    value: float
    """Logit difference, mean over items."""
    standard_error: float
    """Standard error of the mean over groups of items."""


class TaskAtSite(NamedTuple):
    """What was measured of a task at a site."""

    task: Task
    site: Site
    scores: list[Score]
    integrated_gradients_L: Tensor
    """Attribution of each feature, mean over items, in logits."""
    standard_error_L: Tensor
    """Its standard error over groups of items."""
    activation_x_gradient_L: Tensor
    """The first-order attribution, mean over items, in logits."""
    ablations: list[Ablation]


def answer_difference(continuation: Continuation, task: Task) -> Metric:
    """Make the metric of a task: logit of the right token minus that of the wrong one, by what stands at a hook."""

    def metric(x_MTD: Tensor, item_M: Tensor) -> Tensor:
        logits_MV = continuation(x_MTD, item_M)
        chosen_M2 = torch.stack([task.correct_B, task.wrong_B], 1)[item_M.cpu()]
        right_M, wrong_M = logits_MV.gather(1, chosen_M2.to(logits_MV.device)).unbind(1)
        return right_M - wrong_M

    return metric


def read_codes(crosscoder: Crosscoder, checkpoints: Checkpoints, tasks: Sequence[Task], first: int) -> list[Tensor]:
    """Encode the items of tasks, which takes the activations of all sites on the same tokens.

    Args:
        crosscoder: the dictionary.
        checkpoints: the models of all sites.
        tasks: what is read.
        first: position from which the dictionary sees contexts.

    Returns:
        For each task the features that fire, sparse: (B (T - first), L), or (B (T - first), S, L) under gate `site`.
    """
    shape = len(crosscoder.sites), crosscoder.d_model
    x = [torch.empty(*task.tokens_BT[:, first:].shape, *shape) for task in tasks]
    for checkpoint in dict.fromkeys(site.checkpoint for site in crosscoder.sites):
        here = [site for site in crosscoder.sites if site.checkpoint == checkpoint]
        for task, x_BTSD in zip(tasks, x, strict=True):
            own = hooked_activations(checkpoints[checkpoint], task.tokens_BT, [site.hook for site in here])
            for site in here:
                x_BTSD[:, :, crosscoder.sites.index(site)] = own[site.hook][:, first:].cpu()
    return [sparse_code(crosscoder, x_BTSD.flatten(0, 1)) for x_BTSD in x]


def features_at(crosscoder: Crosscoder, site: Site, code: Tensor, items: int, first: int) -> FeatureSum:
    """Lay out what features add to a site, on the device of the dictionary; nothing before position `first`."""
    s = crosscoder.sites.index(site)
    f_NL = (code.select(1, s) if code.ndim == 3 else code).to_dense().to(crosscoder.W_dec.device)
    f_BTL = torch.nn.functional.pad(f_NL.view(items, -1, crosscoder.latents), (0, 0, first, 0))
    return feature_sum(f_BTL, crosscoder.W_dec[:, s] / crosscoder.scales[s])


def measure(
    crosscoder: Crosscoder,
    checkpoints: Checkpoints,
    sites: Sequence[Site],
    tasks: Sequence[Task],
    settings: TaskSettings,
    first: int,
) -> Iterator[TaskAtSite]:
    """Measure tasks at sites, checkpoint by checkpoint.

    Args:
        crosscoder: the dictionary.
        checkpoints: the models of all of its sites.
        sites: those that are patched, one at a time.
        tasks: tasks with at least two groups of items.
        settings: how they are measured.
        first: position from which the dictionary sees contexts.
    """
    codes = read_codes(crosscoder, checkpoints, tasks, first)
    for site in sites:
        model = checkpoints[site.checkpoint]
        for task, code in zip(tasks, codes, strict=True):
            continuation = Continuation(model, site.hook, task.tokens_BT)
            features = features_at(crosscoder, site, code, len(task.tokens_BT), first)
            metric = answer_difference(continuation, task)
            yield _measured(metric, continuation.x_BTD, features, task, site, settings)


def _measured(
    metric: Metric, x_BTD: Tensor, features: FeatureSum, task: Task, site: Site, settings: TaskSettings
) -> TaskAtSite:
    at_once = max(1, settings.batch_positions // x_BTD.shape[1])
    group_B = task.group_B.to(x_BTD.device)
    clean_B, without_B = metrics(metric, [x_BTD, x_BTD - features.total()], at_once)
    first_order_BL = activation_x_gradient(metric, x_BTD, features, at_once)
    attribution_BL = integrated_gradients(metric, x_BTD, features, settings.integration_steps, at_once)
    mean_L, error_L = over_groups(attribution_BL, group_B)
    strength_BL = strength(features)
    ranks = {
        "attribution": held_out_ranks(attribution_BL, group_B),
        "activation": held_out_ranks(strength_BL, group_B),
        "random": random_ranks(strength_BL, settings.seed, task.name),
    }
    ks = sorted({k for k in settings.ks if k < len(mean_L)})
    found = []
    for ranking, rank_BL in ranks.items():
        for kind, values_KB in zip(
            ("ablated", "kept"), ablations(metric, x_BTD, features, rank_BL, ks, at_once), strict=True
        ):
            found += [
                Ablation(ranking, kind, k, *_mean(value_B, group_B)) for k, value_B in zip(ks, values_KB, strict=True)
            ]
    scores = _scores(clean_B, without_B, attribution_BL.sum(1), group_B)
    return TaskAtSite(task, site, scores, mean_L, error_L, over_groups(first_order_BL, group_B)[0], found)


def _scores(clean_B: Tensor, without_B: Tensor, attributed_B: Tensor, group_B: Tensor) -> list[Score]:
    """Score the model as it is and without features, and how far attributions are from adding up to the difference."""
    cost_B = clean_B - without_B
    gap = float((attributed_B - cost_B).abs().sum() / cost_B.abs().sum())
    return [
        Score("logit_difference", *_mean(clean_B, group_B), 0.0),
        Score("accuracy", *_mean((clean_B > 0).float(), group_B), 0.5),
        Score("without_features", *_mean(without_B, group_B), 0.0),
        Score("completeness_gap", gap, float("nan"), float("nan")),
    ]


def _mean(value_B: Tensor, group_B: Tensor) -> tuple[float, float]:
    mean, error = over_groups(value_B, group_B)
    return float(mean), float(error)
