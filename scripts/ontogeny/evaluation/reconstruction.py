"""How well a dictionary reconstructs heldout activations, and with how many features."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.encoding import decode, encoded_blocks, load_dictionary
from ontogeny.evaluation.metrics import ActivityCounts, ReconstructionSums
from ontogeny.evaluation.tables import Measurement, metrics_table, read_identity
from ontogeny.files import write_csv


def write_reconstruction(dictionary: Path, activations: Path, shards: Sequence[str], out: Path) -> dict[str, float]:
    """Measure FVU, L0 and dead latents of a run and write them as a tidy table.

    Args:
        dictionary: folder of the run.
        activations: folder of all sites' shards.
        shards: names of the heldout shards.
        out: the CSV file.

    Returns:
        The rows that were read.

    Raises:
        UserError: a shard is missing or damaged, or its rows have no variance.
    """
    identity = read_identity(dictionary)
    measurements = reconstruction(load_dictionary(dictionary), activations, shards)
    write_csv(out, metrics_table(identity, measurements))
    return {"rows": measurements[0].tokens}


@torch.inference_mode()
def reconstruction(crosscoder: Crosscoder, activations: Path, shards: Sequence[str]) -> list[Measurement]:
    """Measure a dictionary on all rows of `shards`.

    Returns:
        `fvu`, `explained_variance` (1 - FVU) and `l0` of each site and pooled over sites, and `dead`, pooled. Pooled
        FVU is that of scaled activations, in which sites weigh alike; pooled L0 is the mean over sites.
    """
    sites = crosscoder.sites
    sums = ReconstructionSums(len(sites), crosscoder.d_model)
    counts = ActivityCounts(len(sites), crosscoder.latents)
    for block in encoded_blocks(crosscoder, activations, shards):
        sums.add(block.x, decode(crosscoder, block.f))
        counts.add(block.f)
    flat = (sums.spread_S == 0).nonzero()
    if len(flat):
        site = sites[int(flat[0])]
        raise UserError(f"{activations / site.key}: all {sums.rows} heldout rows are equal, so FVU is not defined")
    fvu = [*sums.fvu().tolist(), sums.pooled_fvu(crosscoder.scales)]
    l0 = [*counts.l0().tolist(), float(counts.l0().mean())]
    measured = [Measurement(None, "dead", counts.dead_share(), sums.rows)]
    for place, fraction, count in zip((*sites, None), fvu, l0, strict=True):
        measured += [
            Measurement(place, "fvu", fraction, sums.rows),
            Measurement(place, "explained_variance", 1.0 - fraction, sums.rows),
            Measurement(place, "l0", count, sums.rows),
        ]
    return measured
