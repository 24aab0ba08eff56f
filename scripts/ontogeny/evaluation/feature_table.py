"""Reading `features.parquet`: the features of a run that fire and have a decoder."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ontogeny.errors import UserError
from ontogeny.sites import Site

COLUMNS = ("feature", "normalised_norm", "class", "emergence_site", "emergence_step", "dead")
LABELS = {"dictionary", "run", "rows", "emergence_threshold", "sites"}
"""What is read of the table's metadata."""


class Features(NamedTuple):
    """The features of a run that fire on heldout rows and have a decoder."""

    table: pd.DataFrame
    """One row each, with the columns `COLUMNS` but for the norms."""
    norms: NDArray[np.float64]
    """Their normalised norms, (L, S)."""
    sites: tuple[Site, ...]
    """The site axis."""
    labels: dict[str, str]
    """Metadata of the table, with all of `LABELS`."""
    latents: int
    """Features of the run in all."""
    dead: int
    """Those of them that are silent on all heldout rows."""

    @property
    def threshold(self) -> float:
        """Tau, by which the table tells initialisation from emergent features."""
        return float(self.labels["emergence_threshold"])

    @property
    def rows(self) -> int:
        """Heldout rows that were read."""
        return int(self.labels["rows"])


def read_features(file: Path) -> Features:
    """Read the features that fire and have a decoder.

    Raises:
        UserError: the file is missing or is no such table.
    """
    try:
        table = pq.read_table(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such table; run the rule that makes it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: no Parquet table ({error}); remove it and run its rule again") from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    missing = [name for name in COLUMNS if name not in table.column_names] + sorted(LABELS - metadata.keys())
    if missing:
        raise UserError(f"{file}: {missing[0]!r} is missing; run the rule 'features' again")
    frame = table.select([name for name in COLUMNS if name != "normalised_norm"]).to_pandas()
    alive = (~frame["dead"] & frame["class"].notna()).to_numpy()
    sites = tuple(Site(**site) for site in json.loads(metadata["sites"]))
    norms_LS = table["normalised_norm"].combine_chunks().flatten().to_numpy().reshape(len(frame), len(sites))
    return Features(
        frame[alive].reset_index(drop=True),
        norms_LS[alive].astype(np.float64),
        sites,
        metadata,
        len(frame),
        int(frame["dead"].sum()),
    )
