"""How often the latents of a dictionary fire on heldout rows."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.encoding import encoded_blocks
from ontogeny.evaluation.metrics import ActivityCounts


@torch.inference_mode()
def activity(crosscoder: Crosscoder, activations: Path, shards: Sequence[str]) -> ActivityCounts:
    """Count on how many rows each latent fires.

    Args:
        crosscoder: the dictionary, which knows its sites.
        activations: folder of the shards of all sites.
        shards: names of shards, such as `heldout-00000`.

    Raises:
        UserError: a shard is missing, damaged, or of other rows than that of another site.
    """
    counts = ActivityCounts(len(crosscoder.sites), crosscoder.latents)
    for block in encoded_blocks(crosscoder, activations, shards):
        counts.add(block.f)
    return counts
