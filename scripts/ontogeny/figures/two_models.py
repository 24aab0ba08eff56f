"""Features of crosscoders over two models as a figure counts them: by whose they are, in histograms, by threshold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ontogeny.errors import UserError
from ontogeny.figures.tables import SITE, read_metrics, read_table
from ontogeny.figures.wilson import with_count_interval

OF_FEATURES = ("feature", "designated", "relative_norm", "norm_difference", "cosine", "nu_error", "nu_reconstruction")
TABLE = ("dictionary", "run", "model_a", "model_b", *OF_FEATURES, "tokens")
COLUMNS = ["panel", "series", "dictionary", "run", *SITE, "feature", "x", "value", "low", "high", "total", "tokens"]
SHARED_R, SHARED_DELTA, ALONE_DELTA = (0.3, 0.7), (0.4, 0.6), (0.1, 0.9)
"""Bands of the two publications."""
BINS = {"relative": np.linspace(0, 1, 51), "difference": np.linspace(0, 1, 51), "cosine": np.linspace(-1, 1, 51)}
"""Edges of the histograms."""
THRESHOLDS = np.round(np.arange(0, 1.001, 0.05), 2)
RECOVERED = {"recovered_mean": "mean ablation", "recovered_zero": "zero ablation"}


def values(tables: Sequence[Path], nu: float) -> pd.DataFrame:
    """Compute what is drawn, with the columns `COLUMNS`; the first row names the models.

    Args:
        tables: as `draw` takes them.
        nu: both ratios of latent scaling are within this of 0 where a feature is of one model alone.
    """
    found = [read_table(table, TABLE) for table in tables if table.stem == "model_diff"]
    if not found:
        raise UserError("--tables: none is a model_diff.csv; expected that of at least one run")
    features = pd.concat(found, ignore_index=True)
    models = features[["model_a", "model_b"]].drop_duplicates()
    if len(models) > 1:
        raise UserError(f"--tables: runs are over {len(models)} pairs of models; expected the same two for all")
    parts = [pd.DataFrame({"panel": ["models"], "series": [" and ".join(models.iloc[0])]})]
    for (dictionary, run), own in features.groupby(["dictionary", "run"], sort=False):
        parts += [part.assign(dictionary=dictionary, run=run) for part in _of_run(own, nu)]
    losses = read_metrics([table for table in tables if table.stem != "model_diff"])
    losses = losses[losses["metric"].isin(RECOVERED)]
    parts.append(losses.assign(panel="recovered", series=losses["metric"].map(RECOVERED)))
    numbers = with_count_interval(pd.concat(parts, ignore_index=True), "value", "total").reindex(columns=COLUMNS)
    numbers = numbers.fillna({"series": "", "dictionary": "", "run": "", "model": "", "hook": ""})
    return numbers.astype(dict.fromkeys(("step", "feature", "total", "tokens"), "Int64"))


def _of_run(features: pd.DataFrame, nu: float) -> list[pd.DataFrame]:
    """Compute the rows of one run, but for its losses."""
    free = features[~features["designated"]]
    owner = owners(features)
    shared = features["relative_norm"].between(*SHARED_R)
    chosen = {
        "relative": free["relative_norm"].dropna(),
        "difference": free["norm_difference"].dropna(),
        "cosine": features[shared]["cosine"].dropna(),
    }
    parts = []
    for name, column in chosen.items():
        edges = BINS[name]
        # A cosine may be 1 + 4e-16 by rounding, which no bin holds.
        counts, _ = np.histogram(column.clip(edges[0], edges[-1]), edges)
        parts.append(
            pd.DataFrame({"panel": name, "x": (edges[1:] + edges[:-1]) / 2, "value": counts, "total": len(column)})
        )
    points = features[["feature"]].assign(x=features["nu_error"], value=features["nu_reconstruction"], series=owner)
    parts.append(points[points["series"] != "other"].assign(panel="scaling"))
    worst = np.maximum(points["x"].abs(), points["value"].abs())[owner.isin(["A alone", "B alone"])]
    below = [int((worst < threshold).sum()) for threshold in THRESHOLDS]
    parts.append(pd.DataFrame({"panel": "threshold", "x": THRESHOLDS, "value": below, "total": len(worst)}))
    given = {name: int((owner == name).sum()) for name in ("A alone", "B alone", "shared")}
    given |= {
        f"{name}, nu within {nu:g} of 0": int((worst[owner == name] < nu).sum()) for name in ("A alone", "B alone")
    }
    given |= {"shared by r": int(shared.sum()), "designated": int(features["designated"].sum())}
    rows = {"series": given.keys(), "value": given.values(), "total": len(features)}
    parts.append(pd.DataFrame({"panel": "counts", **rows, "tokens": int(features["tokens"].max())}))
    return parts


def owners(features: pd.DataFrame) -> "pd.Series[str]":
    """Say whose features are by Delta: `A alone`, `B alone`, `shared` or `other`."""
    delta = features["norm_difference"]
    kinds = [delta > ALONE_DELTA[1], delta < ALONE_DELTA[0], delta.between(*SHARED_DELTA)]
    return pd.Series(np.select(kinds, ["A alone", "B alone", "shared"], "other"), index=features.index)
