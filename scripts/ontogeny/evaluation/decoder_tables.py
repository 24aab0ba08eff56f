"""The decoders of a run as a table: one row a feature, with what is known of its decoder at every site."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ontogeny.command import progress
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.evaluation.decoders import extreme_tokens, nearest, rotations
from ontogeny.evaluation.encoding import load_dictionary
from ontogeny.evaluation.feature_table import read_features
from ontogeny.evaluation.geometry_tables import check_run
from ontogeny.evaluation.samples import token_texts
from ontogeny.evaluation.sparse import disk_array
from ontogeny.evaluation.tables import RunIdentity, read_identity
from ontogeny.files import atomic
from ontogeny.language_model.bridge import load_model
from ontogeny.language_model.direct_logits import direct_unembedding, in_residual_stream
from ontogeny.provenance import provenance
from ontogeny.tokenizer import read_tokenizer

NEIGHBOURS = 8
"""Nearest features that are listed for each."""

TOKENS = 10
"""Tokens that are listed for each feature and site, promoted and suppressed ones."""

NUMBERS_AT_ONCE = 2**22
"""Cosines and tokens that are laid out together; a row group of the file."""

IDS, VALUES, TEXTS = (pa.list_(kind) for kind in (pa.int32(), pa.float32(), pa.string()))

SCHEMA = pa.schema(
    [
        ("feature", pa.int32()),
        ("rotation", VALUES),
        ("neighbours", IDS),
        ("neighbour_cosines", VALUES),
        ("promoted", pa.list_(IDS)),
        ("promoted_logits", pa.list_(VALUES)),
        ("promoted_texts", pa.list_(TEXTS)),
        ("suppressed", pa.list_(IDS)),
        ("suppressed_logits", pa.list_(VALUES)),
        ("suppressed_texts", pa.list_(TEXTS)),
    ]
)
"""Columns of `decoders.parquet`.

`rotation` is the cosine of the feature's decoders at two sites, row by row, null where a norm is 0. `neighbours` are
the live features with the highest cosine of decoders over all sites in scaled units. `promoted` and `suppressed` have a
list for each site: the tokens whose logits the decoder, in raw units, raises and lowers most by itself, through the
final norm and the unembedding of the site's checkpoint. Logits are less their mean over the vocabulary, and times the
scale that the norm divides by (`direct_unembedding`). A list is empty where the decoder's norm is 0, or where no linear
map leads from the hook to the residual stream (`in_residual_stream`).
"""


class Tokens(NamedTuple):
    """Tokens of all features at all sites."""

    found: tuple[NDArray[Any], ...]
    """Ids and logits in the order of `Extremes`, on disk (shape: [L, S, K] each)."""
    told_LS: NDArray[np.bool_]
    """Where there are any."""
    texts: pa.Array
    """Text of every token, (V,)."""


@torch.inference_mode()
def write_decoders(
    dictionary: Path, features: Path, models: Path | None, tokenizer: Path, out: Path, study: Path | None
) -> dict[str, float]:
    """Write `decoders.parquet` of a run.

    Args:
        dictionary: folder of the run.
        features: its `features.parquet`, which says which features fire.
        models: folder of all checkpoints; None where sites are of no language model, and no token is promoted.
        tokenizer: `tokenizer.json`.
        out: the table.
        study: the study's `study.json`, or None.

    Returns:
        Features described, and sites whose tokens are told.

    Raises:
        UserError: an input is missing or damaged, or is of another run.
    """
    identity, known = read_identity(dictionary), read_features(features)
    check_run(dictionary, features, identity, known)
    crosscoder = load_dictionary(dictionary)
    alive_L = torch.zeros(crosscoder.latents, dtype=torch.bool, device=crosscoder.W_dec.device)
    alive_L[known.table["feature"].tolist()] = True
    with atomic(out) as temporary:
        tokens = read_tokens(crosscoder, models, tokenizer, out.parent)
        neighbours = _joined(nearest(crosscoder.W_dec.flatten(1), alive_L, NEIGHBOURS))
        with pq.ParquetWriter(temporary, SCHEMA.with_metadata(_metadata(crosscoder, identity, study))) as writer:
            for part in _parts(crosscoder):
                writer.write_table(_table(part, crosscoder, neighbours, tokens))
    return {"features": crosscoder.latents, "sites": int(tokens.told_LS.any(0).sum())}


def read_tokens(crosscoder: Crosscoder, models: Path | None, tokenizer: Path, folder: Path) -> Tokens:
    """Find the tokens that features promote and suppress at every site, checkpoint by checkpoint.

    Args:
        crosscoder: the dictionary.
        models: folder of all checkpoints, or None.
        tokenizer: `tokenizer.json`.
        folder: where to keep what is found, in files that vanish with the process.

    Raises:
        UserError: a checkpoint or the tokenizer is missing.
        OSError: the disk has no room.
    """
    vocabulary = read_tokenizer(tokenizer).vocab_size
    shape = crosscoder.latents, len(crosscoder.sites), min(TOKENS, vocabulary)
    found = tuple(disk_array(folder, kind, shape) for kind in (np.int32, np.float32) * 2)
    told_LS = np.zeros(shape[:2], bool)
    places = sorted(range(shape[1]), key=lambda s: crosscoder.sites[s].checkpoint) if models else []
    for checkpoint, own in groupby(progress(places, len(places), "sites"), lambda s: crosscoder.sites[s].checkpoint):
        model = load_model(models / checkpoint)
        unembedding_DV = direct_unembedding(model, vocabulary)
        for s in own:
            W_LD = crosscoder.W_dec[:, s] / crosscoder.scales[s]
            v_LD = in_residual_stream(model, crosscoder.sites[s].hook, W_LD)
            if v_LD is None:
                continue
            told_LS[:, s] = (W_LD != 0).any(1).cpu().numpy()
            first = 0
            for part in extreme_tokens(v_LD, unembedding_DV, TOKENS):
                rows = slice(first, first + len(part.promoted))
                for kept, values in zip(found, part, strict=True):
                    kept[rows, s] = values.cpu().numpy()
                first = rows.stop
        # Else it would stay in memory while the next one is loaded.
        del model, unembedding_DV
    return Tokens(found, told_LS, token_texts(tokenizer, vocabulary))


def _joined(blocks: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    latents, cosines = zip(*((latent.cpu().numpy(), cosine.cpu().numpy()) for latent, cosine in blocks), strict=True)
    return np.concatenate(latents), np.concatenate(cosines)


def _parts(crosscoder: Crosscoder) -> Iterator[slice]:
    sites = len(crosscoder.sites)
    size = max(1, NUMBERS_AT_ONCE // (sites * (sites + 2 * TOKENS + crosscoder.d_model)))
    for start in range(0, crosscoder.latents, size):
        yield slice(start, min(start + size, crosscoder.latents))


def _table(
    part: slice, crosscoder: Crosscoder, neighbours: tuple[NDArray[np.int64], NDArray[np.float32]], tokens: Tokens
) -> pa.Table:
    """Lay out some features."""
    cosine_BSS = rotations(crosscoder.W_dec[part]).cpu().numpy()
    latent_BK, near_BK = (numbers[part] for numbers in neighbours)
    real_BK, told_BS = np.isfinite(near_BK), tokens.told_LS[part]
    columns: list[pa.Array] = [
        pa.array(np.arange(part.start, part.stop)),
        _lists(np.full(len(cosine_BSS), cosine_BSS[0].size), _known(cosine_BSS.ravel())),
        _lists(real_BK.sum(1), pa.array(latent_BK[real_BK])),
        _lists(real_BK.sum(1), pa.array(near_BK[real_BK])),
    ]
    found = [numbers[part] for numbers in tokens.found]
    for ids_BSK, logits_BSK in (found[:2], found[2:]):
        ids = pa.array(ids_BSK[told_BS].ravel())
        for values in (ids, pa.array(logits_BSK[told_BS].ravel()), tokens.texts.take(ids)):
            columns.append(_by_site(told_BS, ids_BSK.shape[2], values))
    arrays = [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.table(arrays, schema=SCHEMA)


def _by_site(told_BS: NDArray[np.bool_], count: int, values: pa.Array) -> pa.ListArray:
    """Lay values out as a list for each feature of a list for each site, empty where nothing is told."""
    return _lists(np.full(len(told_BS), told_BS.shape[1]), _lists(count * told_BS.ravel(), values))


def _lists(lengths: NDArray[np.integer], values: pa.Array) -> pa.ListArray:
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values)


def _known(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _metadata(crosscoder: Crosscoder, identity: RunIdentity, study: Path | None) -> dict[str, Any]:
    """Say in the file what made it: provenance, the run and the sites in order."""
    return {
        **provenance(study),
        **{name: str(value) for name, value in identity._asdict().items()},
        "sites": json.dumps([site._asdict() for site in crosscoder.sites]),
    }
