from pathlib import Path

import pandas as pd
import pytest
from evaluation_study import SITES, make_models, make_rows, make_shards, make_tokens, random_crosscoder, save

from ontogeny.config.database import DatabaseSettings
from ontogeny.config.evaluation import FeatureSettings, NllSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import RunName
from ontogeny.database.ingest import write_receipt
from ontogeny.database.query import Query, find_features
from ontogeny.database.reading import read_details, read_features, visible_run
from ontogeny.evaluation.features import write_features
from ontogeny.evaluation.losses import write_nll
from ontogeny.evaluation.nll import write_losses
from ontogeny.evaluation.reconstruction import write_reconstruction

D_MODEL = 8


def test_what_the_evaluation_writes_is_found_in_the_database(tmp_path: Path) -> None:
    make_tokens(tmp_path)
    shards = make_rows(tmp_path, (30, 20))
    make_shards(tmp_path, shards, D_MODEL)
    make_models(tmp_path, D_MODEL, SITES)
    dictionary = save(tmp_path, random_crosscoder(D_MODEL, "batchtopk"))
    tokens, activations, metrics = tmp_path / "tokens/heldout.h5", tmp_path / "activations", tmp_path / "metrics"
    write_features(
        FeatureSettings(samples=4, window=3), dictionary, activations, shards, tokens,
        tmp_path / "tokenizer/tokenizer.json", tmp_path / "features", None,
    )  # fmt: skip
    write_reconstruction(dictionary, activations, shards, metrics / "reconstruction.csv")
    write_losses(
        dictionary, "neox", tmp_path / "models", tokens, activations, NllSettings(tokens=48), 0, False,
        tmp_path / "sums.csv",
    )  # fmt: skip
    write_nll(dictionary, [tmp_path / "sums.csv"], metrics / "nll-neox.csv")
    settings, home = DatabaseSettings(), tmp_path / "server"
    write_receipt(settings, home, tmp_path / "features", metrics, dictionary, tmp_path / "receipt.json", None)
    with connect(settings, home) as database:
        run = visible_run(database, RunName("unnamed", "crosscoder", "run"))
        listed = read_features(database, run, range(run.latents))
        densest = find_features(database, run, Query(order="density", descending=True))[0]
        details = read_details(database, run, int(densest))
        texts = [sample.texts for sample in details.samples if sample.quantile is None]
    table = pd.concat([pd.read_csv(metrics / f"{name}.csv") for name in ("reconstruction", "nll-neox")])
    measured = [*run.metrics, *(metric for site in run.sites for metric in site.metrics)]
    stored = [metric.value or 0.0 for metric in measured]
    assert sorted(stored) == pytest.approx(sorted(table.value))
    assert len(listed) == 40
    assert listed[3].dead
    assert len(texts) == 4
    assert all(0 < len(window) <= 7 for window in texts)
