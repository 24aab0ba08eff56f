"""Reading `feature_types.parquet` with the decoder norms of the same features."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ontogeny.errors import UserError
from ontogeny.evaluation.feature_table import Features
from ontogeny.figures.norms import features_to_draw

COLUMNS = ["feature", "type", "context_needed", "context_samples"]


def read_typed(tables: Sequence[Path]) -> Features:
    """Read the features of a run over several sites whose types were decided.

    Args:
        tables: `features.parquet` and `feature_types.parquet`.

    Returns:
        The features, with `COLUMNS` in their table too; `labels` has the settings by which types were decided.

    Raises:
        UserError: a table is missing or damaged, they are of different runs, or the run has one site.
    """
    if len(tables) != 2:
        raise UserError(f"--tables: {len(tables)} tables were named; expected features.parquet, feature_types.parquet")
    features, file = features_to_draw(tables[0]), tables[1]
    try:
        read = pq.read_table(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such table; run the rule that makes it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: no Parquet table ({error}); remove it and run its rule again") from None
    labels = {key.decode(): value.decode() for key, value in (read.schema.metadata or {}).items()}
    missing = [name for name in COLUMNS if name not in read.column_names] + sorted(
        {"dictionary", "run", "settings", "sites"} - labels.keys()
    )
    if missing:
        raise UserError(f"{file}: {missing[0]!r} is missing; run the rule 'feature_types' again")
    if any(labels[name] != features.labels[name] for name in ("dictionary", "run", "sites")):
        raise UserError(f"{file}: it is of another run than the features; run the rule 'feature_types' again")
    table = features.table.reset_index(names="place").merge(read.select(COLUMNS).to_pandas(), on="feature")
    kept = features._replace(table=table.drop(columns="place"), norms=features.norms[table["place"]])
    return kept._replace(labels={**features.labels, "settings": labels["settings"]})
