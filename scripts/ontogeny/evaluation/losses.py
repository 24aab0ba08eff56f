"""Losses of a language model with an activation replaced, and what share of an ablation's cost is recovered."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ontogeny.errors import UserError, first_line
from ontogeny.evaluation.tables import Measurement, metrics_table, read_identity
from ontogeny.files import write_csv
from ontogeny.sites import Site

COLUMNS = (*Site._fields, "variant", "nats", "tokens")
"""Columns of a table of sums: one row per site, variant and batch."""

VARIANTS = ("clean", "reconstructed", "mean_ablated", "zero_ablated")
"""What stands at the hook: the model's own activation, or one of its three replacements."""


class LossSums:
    """Sums of losses in float64, for each site, variant and batch."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = tuple(sites)
        self.tokens: list[int] = []
        self._nats: dict[tuple[Site, str], list[float]] = {
            (site, variant): [] for site in self.sites for variant in VARIANTS
        }

    def add(self, site: Site, variant: str, losses_N: Tensor) -> None:
        """Add the next-token losses of a batch in nats, (N,); the same N tokens belong into every variant."""
        self._nats[site, variant].append(float(losses_N.sum(dtype=torch.float64)))

    def table(self) -> pd.DataFrame:
        """Lay the sums out, one row per site, variant and batch, batches in order."""
        rows = [
            (*site, variant, nats, tokens)
            for (site, variant), sums in self._nats.items()
            for nats, tokens in zip(sums, self.tokens, strict=True)
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))


def write_nll(dictionary: Path, parts: Sequence[Path], out: Path) -> dict[str, float]:
    """Join the sums of all parts and write the losses of a run and a model as a tidy table.

    Args:
        dictionary: folder of the run.
        parts: what `write_losses` wrote, each part once.
        out: the CSV file.

    Returns:
        The tokens whose loss was taken.

    Raises:
        UserError: a part is missing or damaged, or the folder holds no finished run.
    """
    sums = pd.concat([_read(part) for part in parts], ignore_index=True)
    measurements = [
        measured
        for (model, step, hook), own in sums.groupby(list(Site._fields), sort=False)
        for measured in site_losses_of(Site(str(model), int(step), str(hook)), own)
    ]
    write_csv(out, metrics_table(read_identity(dictionary), measurements))
    return {"tokens": measurements[0].tokens}


def _read(part: Path) -> pd.DataFrame:
    try:
        # The default parser of numbers is off by a bit now and then.
        table = pd.read_csv(part, float_precision="round_trip")
    except FileNotFoundError:
        raise UserError(f"{part}: no such file; run the rule 'losses' that makes it") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{part}: no CSV table ({first_line(error)}); remove it and run its rule again") from None
    if list(table.columns) != list(COLUMNS):
        raise UserError(f"{part}: columns are {', '.join(table.columns)}; expected {', '.join(COLUMNS)}")
    return table


def site_losses_of(site: Site, sums: pd.DataFrame) -> list[Measurement]:
    """Mean losses of a site in nats a token, and the share recovered of what each ablation costs.

    Args:
        site: the site.
        sums: its rows of the table of `LossSums`. They are added exactly, so that their order does not matter.
    """
    nll, tokens = {}, 0
    for variant in VARIANTS:
        own = sums[sums["variant"] == variant]
        tokens = int(own["tokens"].sum())
        nll[variant] = math.fsum(own["nats"]) / tokens
    values = {f"nll_{variant}": value for variant, value in nll.items()}
    for ablation in ("mean", "zero"):
        values[f"recovered_{ablation}"] = recovered(nll["clean"], nll["reconstructed"], nll[f"{ablation}_ablated"])
    return [Measurement(site, metric, value, tokens) for metric, value in values.items()]


def recovered(clean: float, reconstructed: float, ablated: float) -> float:
    """Share recovered of the loss that an ablation costs: (ablated - reconstructed) / (ablated - clean).

    1 where the reconstruction is as good as the activation, 0 where it is as bad as the ablation, below 0 where it is
    worse; not a number where the ablation changes nothing. All losses in nats.
    """
    return (ablated - reconstructed) / (ablated - clean) if ablated != clean else float("nan")
