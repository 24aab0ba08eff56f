"""Reading `interpretations.parquet` with the decoder norms of the same features."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ontogeny.errors import UserError
from ontogeny.evaluation.feature_table import Features
from ontogeny.figures.norms import features_to_draw

COLUMNS = ["feature", "complexity", "detection", "fuzzing"]


class Rated(NamedTuple):
    """Features that a language model was asked to rate."""

    features: Features
    """The features, with `COLUMNS` in their table too."""
    judge: str
    """Name of that model."""

    @property
    def any(self) -> bool:
        """Whether there is a feature whose answer could be read."""
        return bool(self.features.table["complexity"].notna().any())


def read_rated(features: Path, interpretations: Path) -> Rated:
    """Read the features of a run over several sites that a language model was asked about.

    Raises:
        UserError: a table is missing or damaged, or they are of different runs.
    """
    drawn, file = features_to_draw(features), interpretations
    try:
        read = pq.read_table(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such table; run the rule that makes it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: no Parquet table ({error}); remove it and run its rule again") from None
    labels = {key.decode(): value.decode() for key, value in (read.schema.metadata or {}).items()}
    missing = [name for name in COLUMNS if name not in read.column_names]
    missing += sorted({"dictionary", "run", "sites", "model"} - labels.keys())
    if missing:
        raise UserError(f"{file}: {missing[0]!r} is missing; run the rule 'interpretation' again")
    if any(labels[name] != drawn.labels[name] for name in ("dictionary", "run", "sites")):
        raise UserError(f"{file}: it is of another run than the features; run the rule 'interpretation' again")
    table = drawn.table.reset_index(names="place").merge(read.select(COLUMNS).to_pandas(), on="feature")
    kept = drawn._replace(table=table.drop(columns="place"), norms=drawn.norms[table["place"]])
    return Rated(kept, labels["model"])
