"""What features do for tasks, as tables: scores of tasks, leading features, ablations."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ontogeny.command import progress
from ontogeny.config.evaluation import TaskSettings
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.encoding import load_dictionary, sites_of_model
from ontogeny.evaluation.tables import RunIdentity, read_identity
from ontogeny.evaluation.task_features import Ablation, Score, TaskAtSite, measure
from ontogeny.evaluation.tasks import Task, make_tasks
from ontogeny.files import atomic, write_csv
from ontogeny.provenance import provenance
from ontogeny.sites import Site
from ontogeny.tokenizer import read_tokenizer

FEWEST_GROUPS = 4
"""Groups of items below which a task is not measured: features are ranked on one half and tried on the other."""

PLACE = (*Site._fields, "task")
COLUMNS = {
    "tasks": (*PLACE, *Score._fields, "items", "dropped", "groups"),
    "attribution": (
        *PLACE, "feature", "rank", "integrated_gradients", "standard_error", "activation_x_gradient", "items",
        "groups",
    ),
    "ablations": (*PLACE, *Ablation._fields, "items", "groups"),
}  # fmt: skip
"""Tables, and their columns after those that name the run."""


def write_task_tables(
    dictionary: Path,
    model: str,
    models: Path,
    tokenizer: Path,
    context_length: int,
    settings: TaskSettings,
    keep_first_position: bool,
    out: Path,
    study: Path | None,
) -> dict[str, float]:
    """Measure what the features of a run do for tasks, at every site of one of its models.

    The table of attributions lists the leading features; `attributions-<model>.parquet` has the integrated gradients of
    all, one row each: for every task that was measured a column with one number a site of the model, in logits.

    Args:
        dictionary: folder of the run.
        model: the model whose sites are patched; other models of the dictionary only lend their activations.
        models: folder of all checkpoints.
        tokenizer: `tokenizer.json`.
        context_length: tokens that the models read at most.
        settings: tasks, and how they are measured.
        keep_first_position: whether the dictionary was trained on position 0 of contexts too.
        out: folder of the tables, `<table>-<model>.csv` for each of `COLUMNS`.
        study: the study's `study.json`, or None.

    Returns:
        The items measured, those of each site counted.

    Raises:
        UserError: the model is not the dictionary's, or a checkpoint or the tokenizer is missing.
    """
    identity, crosscoder = read_identity(dictionary), load_dictionary(dictionary)
    sites = sites_of_model(crosscoder, model, dictionary)
    checkpoints = Checkpoints(models, [site.checkpoint for site in crosscoder.sites])
    tasks = make_tasks(read_tokenizer(tokenizer), settings, context_length)
    enough = [task for task in tasks if _groups(task) >= FEWEST_GROUPS]
    found = list(
        progress(
            measure(crosscoder, checkpoints, sites, enough, settings, 0 if keep_first_position else 1),
            len(enough) * len(sites),
            "tasks at sites",
        )
    )
    rows = {
        "tasks": _task_rows(found, [task for task in tasks if task not in enough], sites),
        "attribution": _feature_rows(found, settings.leading),
        "ablations": [
            (*_place(part), *ablation, _items(part), _groups(part.task))
            for part in found
            for ablation in part.ablations
        ],
    }
    for name, columns in COLUMNS.items():
        table = pd.DataFrame([(*identity, *row) for row in rows[name]], columns=[*identity._fields, *columns])
        write_csv(out / f"{name}-{model}.csv", table)
    _write_attributions(out / f"attributions-{model}.parquet", found, sites, identity, study)
    return {"items": sum(map(_items, found))}


def _write_attributions(
    file: Path,
    found: Sequence[TaskAtSite],
    sites: Sequence[Site],
    identity: RunIdentity,
    study: Path | None,
) -> None:
    """Write the integrated gradients of all features, with the tasks and the sites in order."""
    tasks = list(dict.fromkeys(part.task.name for part in found))
    own = {(part.task.name, part.site): part.integrated_gradients_L for part in found}
    columns: dict[str, pa.Array] = {"feature": pa.array(np.arange(identity.latents, dtype=np.int32))}
    for task in tasks:
        value_LS = torch.stack([own[task, site] for site in sites], dim=1).float().cpu().numpy()
        ends = np.arange(identity.latents + 1, dtype=np.int32) * len(sites)
        columns[task] = pa.ListArray.from_arrays(pa.array(ends), pa.array(value_LS.ravel()))
    metadata = {
        **provenance(study),
        "dictionary": identity.dictionary,
        "run": identity.run,
        "model": sites[0].model,
        "tasks": json.dumps(tasks),
        "sites": json.dumps([site._asdict() for site in sites]),
    }
    with atomic(file) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)


def _place(part: TaskAtSite) -> tuple[object, ...]:
    return (*part.site, part.task.name)


def _items(part: TaskAtSite) -> int:
    return len(part.task.tokens_BT)


def _groups(task: Task) -> int:
    """Count the groups of a task's items, over which standard errors are."""
    return len(set(task.group_B.tolist()))


def _task_rows(
    found: Sequence[TaskAtSite], unmeasured: Sequence[Task], sites: Sequence[Site]
) -> list[tuple[object, ...]]:
    """List scores; a task with too few items has its count and no number."""
    rows: list[tuple[object, ...]] = [
        (*_place(part), *score, _items(part), part.task.dropped, _groups(part.task))
        for part in found
        for score in part.scores
    ]
    nothing = Score("logit_difference", float("nan"), float("nan"), 0.0)
    return rows + [
        (*site, task.name, *nothing, len(task.tokens_BT), task.dropped, _groups(task))
        for task in unmeasured
        for site in sites
    ]


def _feature_rows(found: Sequence[TaskAtSite], leading: int) -> list[tuple[object, ...]]:
    """List, for each task, the features that are among the `leading` ones at any site, at every site."""
    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys(part.task.name for part in found):
        parts = [part for part in found if part.task.name == name]
        order = [torch.sort(part.integrated_gradients_L, descending=True, stable=True).indices for part in parts]
        chosen = sorted({int(feature) for order_L in order for feature in order_L[:leading]})
        for part, order_L in zip(parts, order, strict=True):
            rank_L = torch.argsort(order_L)
            columns = (part.integrated_gradients_L, part.standard_error_L, part.activation_x_gradient_L)
            for feature in chosen:
                numbers = [float(column_L[feature]) for column_L in columns]
                rows.append(
                    (*_place(part), feature, int(rank_L[feature]) + 1, *numbers, _items(part), _groups(part.task))
                )
    return rows
