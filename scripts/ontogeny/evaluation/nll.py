"""What a dictionary costs the language model: next-token loss with reconstructions in place of activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ontogeny.activations.statistics import read_statistics
from ontogeny.command import progress
from ontogeny.config.evaluation import NllSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.encoding import load_dictionary, reconstruct, sites_of_model
from ontogeny.evaluation.heldout import Contexts, spaced_contexts
from ontogeny.evaluation.losses import LossSums
from ontogeny.files import write_csv
from ontogeny.language_model.bridge import hooked_activations, token_losses
from ontogeny.sites import Site
from ontogeny.tokens import read_tokens

ROUND_BYTES = 4 * 2**30
"""Activations held at once where the models do not fit into memory together."""


def write_losses(
    dictionary: Path,
    model: str,
    models: Path,
    tokens: Path,
    activations: Path,
    settings: NllSettings,
    part: int,
    keep_first_position: bool,
    out: Path,
) -> dict[str, float]:
    """Measure what a run costs one of its models, at every site of that model, on one part of the contexts.

    Parts are whole batches, so the sums of all parts do not depend on how many there are.

    Args:
        dictionary: folder of the run.
        model: the model that is measured; other models of the dictionary only lend their activations.
        models: folder of all checkpoints.
        tokens: file with the contexts of the heldout split.
        activations: folder of all sites, for their means.
        settings: how many tokens, in which batches, and in how many parts.
        part: number of the part, from 0.
        keep_first_position: whether the dictionary was trained on position 0 of contexts too.
        out: the CSV file of sums, for `write_nll`.

    Returns:
        The tokens whose loss was taken.

    Raises:
        UserError: the model is not the dictionary's, or a checkpoint, statistics or the tokens are missing.
    """
    crosscoder = load_dictionary(dictionary)
    measured = sites_of_model(crosscoder, model, dictionary)
    means = {site: read_statistics(activations / site.key / "statistics.json").mean for site in measured}
    checkpoints = Checkpoints(models, [site.checkpoint for site in crosscoder.sites])
    contexts = spaced_contexts(read_tokens(tokens), settings.tokens, keep_first_position)
    batches = contexts.split(settings.batch_contexts)
    own = batches[part * len(batches) // settings.parts : (part + 1) * len(batches) // settings.parts]
    sums = site_losses(crosscoder, checkpoints, means, own)
    write_csv(out, sums.table())
    return {"tokens": sum(sums.tokens)}


@torch.inference_mode()
def site_losses(
    crosscoder: Crosscoder,
    checkpoints: Checkpoints,
    means: Mapping[Site, NDArray[np.float64]],
    batches: Sequence[Contexts],
) -> LossSums:
    """Sum next-token losses with the activations of one site at a time replaced.

    A checkpoint runs once for its clean loss and all of its activations, and three times for each site. Models that
    do not fit into memory together are loaded twice in a round, which is as many contexts as memory has room for.

    Args:
        crosscoder: the dictionary; its features come from the activations of all of its sites.
        checkpoints: the models of all sites.
        means: sites that are measured, with the activation that `mean_ablated` puts there, (D,).
        batches: what is read, each in one forward pass.
    """
    sums = LossSums(means)
    position_bytes = len(crosscoder.sites) * crosscoder.d_model * 4
    largest = max((batch.tokens.numel() for batch in batches), default=1)
    size = 1 if checkpoints.all_fit else max(1, ROUND_BYTES // (largest * position_bytes))
    rounds = [batches[start : start + size] for start in range(0, len(batches), size)]
    for together in progress(rounds, sum(map(_counted, rounds)), "tokens", _counted):
        x = _read_activations(crosscoder, checkpoints, together, sums)
        x_hat = [reconstruct(crosscoder, x_NSD) for x_NSD in x]
        _replace_activations(crosscoder.sites, checkpoints, means, together, x_hat, sums)
        sums.tokens.extend(int(batch.counted.sum()) for batch in together)
    return sums


def _counted(batches: Sequence[Contexts]) -> int:
    return sum(int(batch.counted.sum()) for batch in batches)


def _read_activations(
    crosscoder: Crosscoder, checkpoints: Checkpoints, batches: Sequence[Contexts], sums: LossSums
) -> list[Tensor]:
    """Read the activations of all sites, (N, S, D) for the N replaced positions of a batch, and add clean losses."""
    x = [torch.empty(int(batch.replaced.sum()), len(crosscoder.sites), crosscoder.d_model) for batch in batches]
    for checkpoint, sites in _by_checkpoint(crosscoder.sites):
        model = checkpoints[checkpoint]
        for batch, x_NSD in zip(batches, x, strict=True):
            for site, own_ND in _run(model, batch, sites, sums).items():
                x_NSD[:, crosscoder.sites.index(site)] = own_ND.cpu()
    return x


def _run(model: TransformerBridge, batch: Contexts, sites: Sequence[Site], sums: LossSums) -> dict[Site, Tensor]:
    """Run a checkpoint once for its activations, and for its clean loss too where that is measured."""
    hooks = [site.hook for site in sites]
    measured = [site for site in sites if site in sums.sites]
    own: dict[str, Tensor] = {}
    if measured:
        losses_BT = token_losses(model, batch.tokens, {hook: _keep(own, hook) for hook in hooks})
        for site in measured:
            sums.add(site, "clean", losses_BT[batch.counted])
    else:
        own = hooked_activations(model, batch.tokens, hooks)
    return {site: own[site.hook][batch.replaced] for site in sites}


def _replace_activations(
    sites: Sequence[Site],
    checkpoints: Checkpoints,
    means: Mapping[Site, NDArray[np.float64]],
    batches: Sequence[Contexts],
    x_hat: Sequence[Tensor],
    sums: LossSums,
) -> None:
    """Add the losses with each site's activations replaced by reconstruction, mean and zero."""
    for checkpoint, here in _by_checkpoint(sites):
        for site in (site for site in here if site in means):
            mean_D = torch.from_numpy(means[site]).float()
            for batch, x_hat_NSD in zip(batches, x_hat, strict=True):
                values = {
                    "reconstructed": x_hat_NSD[:, sites.index(site)],
                    "mean_ablated": mean_D,
                    "zero_ablated": torch.zeros_like(mean_D),
                }
                for variant, value in values.items():
                    patches = {site.hook: _put(batch.replaced, value)}
                    losses_BT = token_losses(checkpoints[checkpoint], batch.tokens, patches)
                    sums.add(site, variant, losses_BT[batch.counted])


def _by_checkpoint(sites: Sequence[Site]) -> Iterator[tuple[str, list[Site]]]:
    for checkpoint in dict.fromkeys(site.checkpoint for site in sites):
        yield checkpoint, [site for site in sites if site.checkpoint == checkpoint]


def _keep(kept: dict[str, Tensor], hook: str) -> Callable[[Tensor], Tensor]:
    """Make a patch that changes nothing and remembers what it saw."""

    def patch(own_BTD: Tensor) -> Tensor:
        kept[hook] = own_BTD.clone()
        return own_BTD

    return patch


def _put(replaced_BT: Tensor, value: Tensor) -> Callable[[Tensor], Tensor]:
    """Make a patch that puts `value`, (N, D) or (D,), at the replaced positions."""

    def patch(own_BTD: Tensor) -> Tensor:
        patched_BTD = own_BTD.clone()
        patched_BTD[replaced_BT] = value.to(own_BTD)
        return patched_BTD

    return patch
