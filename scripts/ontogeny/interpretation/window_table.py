"""The table of the windows that a language model is shown."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ontogeny.activations.rows import read_rows
from ontogeny.config.evaluation import FeatureTypeSettings
from ontogeny.config.interpretation import WindowSettings
from ontogeny.errors import UserError
from ontogeny.evaluation.encoding import load_dictionary
from ontogeny.evaluation.feature_types import choose, read_firings
from ontogeny.evaluation.samples import token_texts
from ontogeny.evaluation.tables import read_identity
from ontogeny.evaluation.text_windows import RowIndex
from ontogeny.evaluation.token_shares import RowFirings
from ontogeny.files import atomic
from ontogeny.interpretation.marking import marks
from ontogeny.interpretation.windows import (
    FUZZING,
    NO_BAND,
    Chosen,
    Cut,
    activations_at,
    choose_windows,
    cut_windows,
    strongest_firings,
)
from ontogeny.provenance import provenance
from ontogeny.tokens import Tokens, read_tokens

SCHEMA = pa.schema(
    [
        ("feature", pa.int32()),
        ("role", pa.string()),
        ("number", pa.int32()),
        ("truth", pa.bool_()),
        ("band", pa.int8()),
        ("activation", pa.float64()),
        ("context", pa.int32()),
        ("start", pa.int32()),
        ("texts", pa.list_(pa.string())),
        ("marks", pa.list_(pa.bool_())),
    ]
)
"""Columns of `windows.parquet`; `activation` is the largest in the window."""


def write_windows(
    settings: WindowSettings,
    choice: FeatureTypeSettings,
    dictionary: Path,
    features: Path,
    activations: Path,
    shards: Sequence[str],
    tokens: Path,
    tokenizer: Path,
    out: Path,
    study: Path | None,
) -> dict[str, float]:
    """Choose windows of text for features of a run, and write one row for each.

    Args:
        settings: which windows.
        choice: which features: those whose type is decided.
        dictionary: folder of the run.
        features: its `features.parquet`.
        activations: folder of the rows and of the shards of all sites.
        shards: names of the heldout shards.
        tokens: contexts of the heldout split.
        tokenizer: its `tokenizer.json`.
        out: the Parquet file.
        study: the study's `study.json`, or None.

    Returns:
        Rows read, features with windows, and windows.

    Raises:
        UserError: an input is missing or damaged, inputs do not belong together, or no feature fires often enough.
    """
    crosscoder, contexts = load_dictionary(dictionary), read_tokens(tokens)
    texts = token_texts(tokenizer, contexts.vocab_size)
    chosen_F = choose(features, choice)["feature"].to_numpy(dtype=np.int64)
    rows = {shard: read_rows(activations / "rows" / f"{shard}.h5") for shard in shards}
    if any(own.tokens_hash != contexts.hash for own in rows.values()):
        raise UserError(f"{activations}/rows: the rows are not of {tokens}; make the rows again")
    firings, index = read_firings(crosscoder, activations, rows, chosen_F), RowIndex(list(rows.values()))
    cut = cut_windows(index.context, index.position, contexts.length, settings.window)
    chosen = _choose(chosen_F, firings, cut, settings)
    if not chosen:
        raise UserError(
            f"{features}: no feature fires in a window whose every token was read; raise activations.heldout_rows"
        )
    table = _table(chosen, chosen_F, cut, contexts, texts, index, firings, settings.seed)
    metadata = {
        **provenance(study),
        **{name: str(value) for name, value in read_identity(dictionary)._asdict().items()},
        "sites": json.dumps([site._asdict() for site in crosscoder.sites]),
        "rows": str(len(index.context)),
        "settings": settings.model_dump_json(),
    }
    with atomic(out) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)
    return {"rows": len(index.context), "features": len({place for place, _ in chosen}), "windows": len(table)}


def _choose(
    chosen_F: NDArray[np.int64], firings: RowFirings, cut: Cut, settings: WindowSettings
) -> list[tuple[int, Chosen]]:
    """Choose windows of each feature that fires in one, with its place among the features."""
    return [
        (place, window)
        for place, (fired_K, _) in enumerate(strongest_firings(firings, cut, len(chosen_F)))
        if len(fired_K)
        for window in choose_windows(int(chosen_F[place]), fired_K, cut, settings)
    ]


def _table(
    chosen: Sequence[tuple[int, Chosen]],
    chosen_F: NDArray[np.int64],
    cut: Cut,
    contexts: Tokens,
    texts: pa.Array,
    index: RowIndex,
    firings: RowFirings,
    seed: int,
) -> pa.Table:
    """Lay windows out by `SCHEMA`, with the tokens of each, how active the feature is and which are marked.

    Of fuzzing, windows without room for wrong marks are left out, so that those that are marked rightly are like them.
    """
    window_M = np.array([window.window for _, window in chosen], dtype=np.int64)
    context_M, start_M, stop_M = (column[window_M] for column in cut[:3])
    ends_M = np.cumsum(stop_M - start_M)
    sample_N = np.repeat(np.arange(len(chosen)), stop_M - start_M)
    position_N = np.arange(len(sample_N)) - np.concatenate([[0], ends_M])[sample_N] + start_M[sample_N]
    place_N = np.array([place for place, _ in chosen], dtype=np.int64)[sample_N]
    row_N = index.find(context_M[sample_N], position_N)
    activation_N = activations_at(firings, row_N, place_N, len(chosen_F))
    token_N = contexts.tokens[context_M[sample_N], position_N].astype(np.int32)
    parts = (np.split(values, ends_M[:-1]) for values in (activation_N, token_N))
    records = []
    for (place, window), activation_T, token_T in zip(chosen, *parts, strict=True):
        marks_T = marks(activation_T, window, seed, int(chosen_F[place]))
        if window.role == FUZZING and not marks_T.any():
            continue
        band = None if window.band == NO_BAND else window.band
        values = (window.role, window.number, window.truth, band, activation_T.max())
        where = (cut.context[window.window], cut.start[window.window])
        records.append((chosen_F[place], *values, *where, texts.take(pa.array(token_T)), marks_T))
    columns = list(zip(*records, strict=True))
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
