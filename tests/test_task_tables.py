"""What features do for tasks, as tables of a run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from evaluation_study import HOOK, SITES, make_models, make_tokens, random_crosscoder, save, script

from ontogeny.config.evaluation import TaskSettings
from ontogeny.errors import UserError
from ontogeny.evaluation.task_tables import COLUMNS, write_task_tables
from ontogeny.sites import Site

D_MODEL = 16


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_tokens(folder)
    make_models(folder, D_MODEL, SITES)
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    return folder


def write(study: Path, dictionary: Path, out: Path, settings: TaskSettings, model: str = "neox") -> dict[str, float]:
    return write_task_tables(
        dictionary, model, study / "models", study / "tokenizer/tokenizer.json", 64, settings, False, out, None
    )


def test_tables_of_a_run(study: Path, tmp_path: Path) -> None:
    dictionary = save(tmp_path, random_crosscoder(D_MODEL, "topk"))
    settings = TaskSettings(items=16, ks=(1, 4, 1000), leading=2)
    counts = write(study, dictionary, tmp_path, settings)
    assert counts == {"items": 32}, "induction alone, at both sites: this tokenizer has no words"
    tables = {name: pd.read_csv(tmp_path / f"{name}-neox.csv") for name in COLUMNS}
    tasks = tables["tasks"]
    measured = tasks[tasks["task"] == "induction"]
    assert (
        measured.groupby("step")["metric"].apply(set).tolist()
        == [{"logit_difference", "accuracy", "without_features", "completeness_gap"}] * 2
    )
    others = tasks[tasks["task"] != "induction"]
    assert others["value"].isna().all()
    assert (others["dropped"] > 100).all()
    assert set(others["items"]) == {0}
    groups = {name: set(table.loc[table["task"] == "induction", "groups"]) for name, table in tables.items()}
    assert groups == {name: {4} for name in COLUMNS}, "of four items each, which standard errors are over"
    curves = tables["ablations"]
    assert curves.groupby(["step", "ranking", "features"])["k"].apply(list).tolist() == [[1, 4]] * 12
    leading = tables["attribution"]
    assert leading[leading["rank"] <= 2].groupby("step").size().tolist() == [2, 2]
    assert len(set(leading.groupby("step")["feature"].apply(tuple))) == 1, "the same features at every site"

    everything = pq.read_table(tmp_path / "attributions-neox.parquet")
    assert everything.column_names == ["feature", "induction"], "tasks that were measured"
    assert everything["feature"].to_pylist() == list(range(40))
    value_LS = np.array(everything["induction"].to_pylist())
    assert json.loads(everything.schema.metadata[b"tasks"]) == ["induction"]
    assert json.loads(everything.schema.metadata[b"sites"]) == [site._asdict() for site in SITES]
    named = [everything.schema.metadata[key] for key in (b"dictionary", b"run", b"model")]
    assert named == [b"crosscoder", b"run", b"neox"]
    for s, site in enumerate(SITES):
        own = leading[leading["step"] == site.step].set_index("feature")
        assert own["integrated_gradients"].to_numpy() == pytest.approx(value_LS[own.index, s], rel=1e-5)
        assert own["rank"].tolist() == (1 + (value_LS[:, s] > value_LS[own.index, s, None]).sum(1)).tolist()

    made = script(
        "attribution.py", "--settings", settings.model_dump_json(), "--dictionary", dictionary, "--model", "neox",
        "--models", study / "models", "--tokenizer", study / "tokenizer/tokenizer.json", "--context-length", 64,
        "--out", tmp_path / "again",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for name in COLUMNS:
        assert (tmp_path / f"again/{name}-neox.csv").read_bytes() == (tmp_path / f"{name}-neox.csv").read_bytes()
    name = "attributions-neox.parquet"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_each_model_of_a_dictionary_has_its_own_sites(study: Path, tmp_path: Path) -> None:
    sites = (Site("other", 0, HOOK), *SITES)
    make_models(study, D_MODEL, sites[:1])
    dictionary = save(tmp_path, random_crosscoder(D_MODEL, "jumprelu", "site", sites=sites))
    for model, own in (("other", sites[:1]), ("neox", SITES)):
        write(study, dictionary, tmp_path, TaskSettings(items=16, ks=(1,), leading=40), model)
        table = pq.read_table(tmp_path / f"attributions-{model}.parquet")
        assert json.loads(table.schema.metadata[b"sites"]) == [site._asdict() for site in own]
        value_LS = np.array(table["induction"].to_pylist())
        expected = pd.read_csv(tmp_path / f"attribution-{model}.csv").pivot_table(
            "integrated_gradients", "feature", "step"
        )
        np.testing.assert_allclose(value_LS, expected.to_numpy(), rtol=1e-5)
        assert value_LS.any(axis=0).all()


def test_another_model_is_one_line(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no site of a model 'gpt'; models of this dictionary are neox"):
        write(study, save(tmp_path, random_crosscoder(D_MODEL, "topk")), tmp_path, TaskSettings(), "gpt")
