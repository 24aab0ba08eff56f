"""Types of features, decided by measurement: what a feature's activation depends on."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ontogeny.activations.rows import Rows, read_rows
from ontogeny.config.evaluation import FeatureTypeSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.dependence import Copies, Samples, context_needed, induction_scores, random_copies, read_copies
from ontogeny.evaluation.encoding import encoded_blocks, load_dictionary
from ontogeny.evaluation.tables import read_identity
from ontogeny.evaluation.token_shares import NONE, RowFirings, explained_share
from ontogeny.evaluation.type_rules import feature_types
from ontogeny.files import atomic
from ontogeny.provenance import provenance
from ontogeny.randomness import generator
from ontogeny.tokens import Tokens, read_tokens


def write_feature_types(
    settings: FeatureTypeSettings,
    dictionary: Path,
    features: Path,
    models: Path,
    activations: Path,
    shards: Sequence[str],
    tokens: Path,
    out: Path,
    study: Path | None,
) -> dict[str, float]:
    """Measure what a sample of the features of a run depends on, and write one row for each.

    Args:
        settings: which features, on what they are measured, and what decides their type.
        dictionary: folder of the run.
        features: folder of its `features.parquet` and `samples.parquet`.
        models: folder of all checkpoints.
        activations: folder of the rows and of the shards of all sites.
        shards: names of the heldout shards.
        tokens: contexts of the heldout split.
        out: the Parquet file.
        study: the study's `study.json`, or None.

    Returns:
        Rows read, features typed and samples cut.

    Raises:
        UserError: an input is missing or damaged, inputs do not belong together, or no feature fires often enough.
    """
    crosscoder, contexts = load_dictionary(dictionary), read_tokens(tokens)
    checkpoints = Checkpoints(models, [site.checkpoint for site in crosscoder.sites])
    chosen = choose(features / "features.parquet", settings)
    chosen_F = chosen["feature"].to_numpy(dtype=np.int64)
    rows = {shard: read_rows(activations / "rows" / f"{shard}.h5") for shard in shards}
    if any(own.tokens_hash != contexts.hash for own in rows.values()):
        raise UserError(f"{activations}/rows: the rows are not of {tokens}; make the rows again")
    firings = read_firings(crosscoder, activations, rows, chosen_F)
    table = chosen.assign(**token_shares(firings, list(rows.values()), contexts, len(chosen_F)))
    copies = read_copies(crosscoder, checkpoints, random_copies(contexts, settings), chosen_F)
    table = table.assign(
        **{f"{name}_copy": getattr(copies, name) for name in Copies._fields[:3]},
        copy_firings=copies.firings,
        copy_positions=copies.positions,
        induction_score=induction_scores(copies),
    )
    samples = read_samples(features / "samples.parquet", chosen_F, settings.samples)
    needed_M = context_needed(crosscoder, checkpoints, contexts, samples, settings.restored)
    by_feature = pd.Series(needed_M).groupby(samples.feature)
    table["context_needed"] = table["feature"].map(by_feature.median())
    table["context_samples"] = table["feature"].map(by_feature.size())
    table["type"] = feature_types(table, settings)
    _write(out, table, settings, dictionary, crosscoder, study)
    return {"rows": sum(len(own.context) for own in rows.values()), "features": len(table), "samples": len(needed_M)}


def choose(file: Path, settings: FeatureTypeSettings) -> pd.DataFrame:
    """Choose features that fire often enough: as many of each class, as far as there are, by chance.

    Returns:
        `feature`, `class` and `firings`, by feature; `eligible` is how many of the class there were to choose from.

    Raises:
        UserError: the table is missing, or no feature fires often enough.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; run the rule 'features'")
    read = pq.read_table(file, columns=["feature", "class", "density"])
    firings = np.rint(read["density"].to_numpy() * int(read.schema.metadata[b"rows"])).astype(np.int64)
    table = pd.DataFrame({"feature": read["feature"], "class": read["class"].to_pandas(), "firings": firings})
    table = table[table["class"].notna() & (table["firings"] >= settings.firings)].reset_index(drop=True)
    if table.empty:
        raise UserError(
            f"{file}: no feature fires on {settings.firings:,} heldout rows or more; lower "
            "evaluation.feature_types.firings, or name another run in figures.run"
        )
    table["eligible"] = table.groupby("class")["class"].transform("size")
    order = generator(settings.seed, "features to type").permutation(len(table))
    turn = table["class"].iloc[order].groupby(table["class"].iloc[order]).cumcount().to_numpy()
    return table.iloc[np.sort(order[np.argsort(turn, kind="stable")][: settings.features])].reset_index(drop=True)


@torch.inference_mode()
def read_firings(
    crosscoder: Crosscoder, activations: Path, rows: dict[str, Rows], chosen_F: NDArray[np.int64]
) -> RowFirings:
    """Encode all heldout rows and keep what some features do there, by the number of the row in all shards together.

    Raises:
        UserError: a shard is missing or damaged, or holds other rows.
    """
    starts = dict(zip(rows, np.cumsum([0, *(len(own.context) for own in rows.values())])[:-1], strict=True))
    parts = []
    for block in encoded_blocks(crosscoder, activations, list(rows)):
        if block.rows_hash != rows[block.shard].hash:
            raise UserError(f"{activations}: shards {block.shard} and rows/{block.shard}.h5 differ; make them again")
        f_BF = (block.f if block.f.ndim == 2 else block.f.amax(1))[:, chosen_F].cpu()
        row_N, feature_N = f_BF.nonzero(as_tuple=True)
        first = int(starts[block.shard]) + block.start
        parts.append((row_N.numpy() + first, feature_N.numpy(), f_BF[row_N, feature_N].double().numpy()))
    return RowFirings(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def token_shares(
    firings: RowFirings, rows: Sequence[Rows], contexts: Tokens, features: int
) -> dict[str, NDArray[np.float64] | int]:
    """Compute the shares of variance that the current and the previous token explain, with the rows they are from.

    A row at position 0 has no previous token.
    """
    context_R, position_R, token_R = (
        np.concatenate([getattr(own, name) for own in rows]) for name in ("context", "position", "token")
    )
    before_R = contexts.tokens[context_R, np.maximum(position_R - 1, 0)].astype(np.int64)
    groups = {"current_token": token_R, "previous_token": np.where(position_R > 0, before_R, NONE)}
    columns: dict[str, NDArray[np.float64] | int] = {}
    for name, group_R in groups.items():
        columns[f"{name}_share"], columns[f"{name}_rows"] = explained_share(firings, group_R, features)
    return columns


def read_samples(file: Path, chosen_F: NDArray[np.int64], samples: int) -> Samples:
    """Read where features fire most, at positions above 0.

    Raises:
        UserError: the table is missing.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; run the rule 'features'")
    columns = ["feature", "quantile", "rank", "context", "position", "activation"]
    table = pq.read_table(file, columns=columns).to_pandas()
    table = table[table["quantile"].isna() & (table["rank"] < samples)]
    table = table[table["feature"].isin(chosen_F) & (table["position"] > 0)]
    feature, context, position = (table[name].to_numpy(dtype=np.int64) for name in ("feature", "context", "position"))
    return Samples(feature, context, position, table["activation"].to_numpy(dtype=np.float64))


def _write(
    out: Path,
    table: pd.DataFrame,
    settings: FeatureTypeSettings,
    dictionary: Path,
    crosscoder: Crosscoder,
    study: Path | None,
) -> None:
    """Write the table with what made it: provenance, the run, the sites in order and the settings."""
    metadata = {
        **provenance(study),
        **{name: str(value) for name, value in read_identity(dictionary)._asdict().items()},
        "sites": json.dumps([site._asdict() for site in crosscoder.sites]),
        "settings": settings.model_dump_json(),
    }
    with atomic(out) as temporary:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(metadata), temporary)
