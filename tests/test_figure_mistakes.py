"""What a figure cannot draw is one line, and leaves no file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import figure_tables as made_up
import model_tables
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from figure_drawing import check_refused

ROOT = Path(__file__).parents[1]


def _edited(file: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    edit(pd.read_csv(file)).to_csv(file, index=False)
    return file


MISTAKES: dict[str, tuple[str, Callable[[Path], list[Path]], str]] = {
    "missing table": ("pareto", lambda at: [at / "reconstruction.csv"], "reconstruction.csv: there is no such table"),
    "empty file": ("reconstruction", lambda at: [_written(at / "a.csv", "")], "a.csv: no CSV table"),
    "no rows": (
        "pareto",
        lambda at: [_edited(made_up.reconstruction_and_nll(at, made_up.LAST)[0], lambda table: table[:0])],
        "the table has no rows",
    ),
    "column": (
        "language_model",
        lambda at: [_written(at / "a.csv", "step,split\n1,train\n")],
        "column 'loss' is missing",
    ),
    "no L0": (
        "pareto",
        lambda at: [
            _edited(made_up.reconstruction_and_nll(at, made_up.LAST)[0], lambda table: table[table["metric"] != "l0"])
        ],
        "no run has both 'l0' and 'explained_variance'",
    ),
    "no FVU": (
        "reconstruction",
        lambda at: made_up.reconstruction_and_nll(at, made_up.LAST)[1:],
        "no table has the FVU of a site",
    ),
    "two dictionaries": (
        "reconstruction",
        lambda at: (
            made_up.reconstruction_and_nll(at, made_up.LAST, "sae")[:1]
            + made_up.reconstruction_and_nll(at, made_up.LAST)[:1]
        ),
        "they are of sae and crosscoder; expected the runs of one dictionary",
    ),
    "all dead": (
        "decoder_norms",
        lambda at: [made_up.features(at, made_up.norms(50), dead=1.0)],
        "none of 50 features fires on the heldout rows",
    ),
    "one site": (
        "decoder_norms",
        lambda at: [made_up.features(at, made_up.norms(50)[:, -1:], sites=made_up.LAST)],
        "the run has one site",
    ),
    "no Parquet": ("decoder_norms", lambda at: [_written(at / "a.parquet", "feature")], "a.parquet: no Parquet table"),
    "no features": ("decoder_norms", lambda at: [at / "features.parquet"], "features.parquet: there is no such table"),
    "no metadata": (
        "decoder_norms",
        lambda at: [_without_metadata(made_up.features_of(at)[0])],
        "'dictionary' is missing",
    ),
    "overview without its tables": (
        "evolution_overview",
        lambda at: made_up.features_of(at),
        "1 tables were named; expected features.parquet, rotation.csv and persistence.csv",
    ),
    "overview of one site": (
        "evolution_overview",
        lambda at: [made_up.features(at, made_up.norms(50)[:, -1:], sites=made_up.LAST), at / "a.csv", at / "b.csv"],
        "the run has one site",
    ),
    "overview of two runs": (
        "evolution_overview",
        lambda at: [*_of_another_run(made_up.overview_of(at, *made_up.features_of(at)), 1)],
        "rotation.csv: it is of another run than the features; run the rule 'geometry' again",
    ),
    "classes of two runs": (
        "feature_classes",
        lambda at: [*_of_another_run(made_up.classes_of(at, *made_up.features_of(at)), 1)],
        "classes.csv: it is of another run than the features; run the rule 'geometry' again",
    ),
    "all classes dead": (
        "feature_classes",
        lambda at: made_up.classes_of(at, made_up.features(at, made_up.norms(50), dead=1.0)),
        "none of 50 features fires on the heldout rows",
    ),
    "pairs without agreement": (
        "robustness",
        lambda at: made_up.comparisons(at, "other")[:1],
        "1 tables were named; expected pairs.csv and agreement.csv of every run",
    ),
    "nothing matched": (
        "robustness",
        lambda at: [
            _edited(file, lambda table: table.assign(matched=False)) if file.name == "pairs.csv" else file
            for file in made_up.comparisons(at, "other")
        ],
        "no feature is matched, here or in another run; lower evaluation.matching.cosine",
    ),
    "no loss": (
        "language_model",
        lambda at: [_edited(model_tables.training(at), lambda table: table.assign(loss=np.nan))],
        "no loss is a finite number",
    ),
    "no tokenizer": (
        "language_model",
        lambda at: [model_tables.training(at), _written(at / "tokenizer.json", "{}")],
        "tokenizer.json: no tokenizer",
    ),
    "two models": (
        "two_phases",
        lambda at: [model_tables.ngram(at), model_tables.ngram(at)],
        "2 tables are named ngram-<model>.csv; expected that of one model",
    ),
    "one checkpoint": ("two_phases", lambda at: [model_tables.ngram(at, (512,))], "the model has one checkpoint"),
    "two runs": (
        "norm_as_strength",
        lambda at: [made_up.probes(at), made_up.probes(at)],
        "2 tables were named; expected probes.csv of one run",
    ),
    "nothing is read": (
        "norm_as_strength",
        lambda at: [made_up.probes(at, best=0.05)],
        "no probe has an R^2 of 0.1 or more",
    ),
    "probes of one site": (
        "norm_as_strength",
        lambda at: [made_up.probes(at, made_up.LAST)],
        "the run has one site",
    ),
    "no tasks": ("attribution", lambda at: model_tables.tasks(at, "attribution")[1:], "no tasks-<model>.csv was named"),
    "only a tokenizer": ("language_model", lambda at: [model_tables.tokenizer(at, 4)], "no training.csv was named"),
}


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def _of_another_run(files: list[Path], number: int) -> list[Path]:
    _edited(files[number], lambda table: table.assign(run="latents2048-k64-seed0"))
    return files


def _without_metadata(file: Path) -> Path:
    pq.write_table(pq.read_table(file).replace_schema_metadata({}), file)
    return file


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case: str, tmp_path: Path) -> None:
    name, make, expected = MISTAKES[case]
    check_refused(name, make(tmp_path), expected, tmp_path / "figures")


def test_settings_of_another_figure_are_one_line(tmp_path: Path) -> None:
    table = made_up.reconstruction(tmp_path, made_up.identity("crosscoder", 32))
    command = [
        sys.executable,
        str(ROOT / "scripts" / "figure.py"),
        "--figure",
        "pareto",
        "--settings",
        '{"features": 3}',
    ]
    command += ["--tables", str(table), "--out", str(tmp_path / "pareto")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: --settings: no FigureSettings: ('features',): Extra inputs are not permitted"
    ]
