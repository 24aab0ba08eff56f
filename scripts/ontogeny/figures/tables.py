"""What figures read: tables of metrics, checked before anything is drawn."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ontogeny.errors import UserError
from ontogeny.evaluation.tables import COLUMNS
from ontogeny.sites import Site

RUN = ["dictionary", "point", "latents", "sparsity"]
"""Columns that name a point of a sweep, which is a run but for its seed; `sparsity` alone does not tell k = 32 with one
coefficient from k = 32 with another."""

SITE = list(Site._fields)
"""Columns that name a site."""


def read_table(file: Path, columns: Sequence[str], may_be_empty: bool = False) -> pd.DataFrame:
    """Read a CSV table.

    Raises:
        UserError: the file is missing, is no table, lacks one of `columns`, or has no rows though it must.
    """
    try:
        table = pd.read_csv(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such table; run the rule that makes it") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no CSV table ({str(error).strip()}); remove it and run its rule again") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{file}: column {missing[0]!r} is missing; expected {', '.join(columns)}")
    if table.empty and not may_be_empty:
        raise UserError(f"{file}: the table has no rows; remove it and run its rule again")
    return table


def read_metrics(files: Sequence[Path]) -> pd.DataFrame:
    """Read tables of metrics as one: columns `COLUMNS` and `point`, with empty text and step -1 where sites are pooled.

    Raises:
        UserError: there is no table, or one is damaged or empty.
    """
    if not files:
        raise UserError("--tables: no table was named; expected the metrics of at least one run")
    table = pd.concat([read_table(file, COLUMNS) for file in files], ignore_index=True)
    table["step"] = table["step"].fillna(-1).astype("int64")
    table["point"] = table["run"].astype(str).str.replace(r"-seed-?\d+$", "", regex=True)
    return table.fillna({"model": "", "hook": ""}).astype({"dictionary": str, "model": str, "hook": str})


def sites_of(table: pd.DataFrame) -> list[Site]:
    """List the sites of a table of metrics by model, step and hook; block 10 comes after block 2."""
    rows = table.loc[table["model"] != "", SITE].drop_duplicates()
    sites = [Site(str(model), int(step), str(hook)) for model, step, hook in rows.itertuples(index=False)]
    return sorted(sites, key=lambda site: (site.model, site.step, _by_number(site.hook)))


def _by_number(hook: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", hook)]


def over_seeds(metrics: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Summarise metrics over seeds: one row per dictionary, point of its sweep and site.

    Args:
        metrics: as `read_metrics` returns it.
        names: metrics to summarise.

    Returns:
        The key columns, `seeds` (how many), `tokens`, and for each metric `<name>` (mean), `<name>_low` and
        `<name>_high` (smallest and largest over seeds).
    """
    keys = [*RUN, *SITE]
    chosen = metrics[metrics["metric"].isin(names)]
    groups = chosen.groupby([*keys, "metric"], sort=False)["value"].agg(["mean", "min", "max"]).unstack("metric")
    result = chosen.groupby(keys, sort=False).agg(seeds=("seed", "nunique"), tokens=("tokens", "max"))
    for name in names:
        for statistic, column in (("mean", name), ("min", f"{name}_low"), ("max", f"{name}_high")):
            result[column] = groups[statistic, name] if (statistic, name) in groups else float("nan")
    return result.reset_index()
