"""The tiny study with another seed to compare with, and features that a language model rates: a server of known rule."""

import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from judge import Judge, knowing, serving

from .conftest import Workspace
from .test_bad_input import copied, errors

KEY = "sk-TheSecretOfTheStudy"
FEATURES = "results/features/crosscoder/latents128-k8-seed0"
RATED = {"interpretation": 1, "complexity_figure": 1, "gallery": 1}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with serving(knowing) as server:
        yield server


@pytest.fixture(scope="module")
def rated(finished: Workspace, judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = copied(finished, tmp_path_factory.mktemp("rated") / "study")
    file = workspace.folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["dictionaries"]["other-seed"] = {**config["dictionaries"]["crosscoder"], "k": [8], "seeds": [1]}
    config["evaluation"]["matching"] = {"against": ["other-seed"]}
    chosen = {"features": 12, "window": 8, "examples": 4, "tests": 8}
    config["interpretation"] = {"endpoint": judge.address, "model": "judge-1", "key": "JUDGE_KEY", **chosen}
    file.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_KEY", KEY)
        done = workspace.snakemake("results/figures/")
        assert done.returncode == 0, done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        yield workspace


def planned(workspace: Workspace) -> Counter[str]:
    return workspace.planned("results/figures/")[0]


def test_features_are_rated_and_drawn(rated: Workspace, judge: Judge) -> None:
    table = pq.read_table(rated.folder / FEATURES / "interpretations.parquet")
    frame = table.to_pandas()
    assert len(frame) == 12
    assert frame["complexity"].between(1, 5).all()
    assert frame["explanation"].str.startswith("the text [").all()
    scores = frame[["detection", "fuzzing"]]
    assert scores.stack().dropna().between(0, 1).all()
    assert (scores.count() > 6).all(), "a test without windows of both kinds is not made"
    labels = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert (labels["study"], labels["run"], labels["model"]) == ("default", "latents128-k8-seed0", "judge-1")
    typed = pq.read_table(rated.folder / "results/metrics/crosscoder/latents128-k8-seed0/feature_types.parquet")
    assert set(frame["feature"]) <= set(typed["feature"].to_pylist()), "of those whose types are measured"
    numbers = pd.read_csv(rated.folder / "results/figures/complexity.csv")
    assert numbers.loc[numbers["panel"] == "rating median", "features"].sum() == 12
    assert set(numbers["judge"]) == {"judge-1"}
    assert judge.headers[0]["Authorization"] == f"Bearer {KEY}"
    log = (rated.folder / "results/logs/interpretation/crosscoder/latents128-k8-seed0.log").read_text()
    (told,), (asked,) = (re.findall(rf"{when} (\d+) requests", log) for when in ("still to ask, about:", "asked"))
    assert told == asked == str(12 + scores.count().sum())
    assert "Of 12 features rated by judge-1" in (rated.folder / "results/figures/index.html").read_text()


def test_the_key_is_in_no_file(rated: Workspace) -> None:
    files = [file for file in rated.folder.rglob("*") if file.is_file()]
    assert len(files) > 100
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("interpretation", "model"), "judge-2", RATED),
        (("interpretation", "window"), 12, {"windows": 1, **RATED}),
        (("interpretation", "features"), 8, {"windows": 1, **RATED}),
        (("evaluation", "matching", "cosine"), 0.5, {"matching": 1, "robustness_figure": 1, "gallery": 1}),
        (("evaluation", "feature_types", "context"), 4, {"feature_types": 1, "feature_types_figure": 1, "complexity_figure": 1, "gallery": 1}),
        (("interpretation", "endpoint"), None, {"complexity_figure": 1, "gallery": 1}),
    ],
)  # fmt: skip
def test_change_of_config(rated: Workspace, path: tuple[str, ...], value: Any, expected: dict[str, int]) -> None:
    assert planned(rated) == Counter()
    with rated.changed(*path, value=value):
        assert planned(rated) == Counter(expected)


def test_answers_outlive_their_table(rated: Workspace, judge: Judge) -> None:
    before = (rated.folder / FEATURES / "interpretations.parquet").read_bytes()
    asked = len(judge.requests)
    done = rated.snakemake("--forcerun", "interpretation", "--", f"{FEATURES}/interpretations.parquet")
    assert done.returncode == 0, done.stderr
    assert (rated.folder / FEATURES / "interpretations.parquet").read_bytes() == before
    assert len(judge.requests) == asked


def test_a_server_that_is_not_there_is_one_line(rated: Workspace, tmp_path: Path) -> None:
    copy = copied(rated, tmp_path / "copy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        copy.changed("interpretation", "endpoint", value=f"http://127.0.0.1:{port}/v1"),
        copy.changed("interpretation", "model", value="judge-2"),
    ):
        done = copy.snakemake("results/figures/")
    assert done.returncode == 1
    (line,) = errors(done)
    assert f"interpretation.endpoint: http://127.0.0.1:{port}/v1/chat/completions: the server cannot be reached" in line
    assert "Traceback" not in done.stderr
