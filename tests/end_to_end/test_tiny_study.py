"""The numbers of a whole study, run by the commands that a user types."""

import base64
import html
import json
import re

import h5py
import pandas as pd
import pytest

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import FEATURES, RunName
from ontogeny.database.reading import read_details, read_features, visible_run
from ontogeny.figures.writer import figure_module

from .conftest import Workspace

RUNS = [
    ("crosscoder", "latents128-k4-seed0"),
    ("crosscoder", "latents128-k8-seed0"),
    ("sae", "latents128-sparsity0.5-seed0"),
]
FIGURES = (
    "pareto",
    "reconstruction",
    "decoder_norms",
    "evolution_overview",
    "feature_classes",
    "language_model",
    "two_phases",
    "norm_as_strength",
    "attribution",
    "necessity_sufficiency",
    "feature_types",
    "complexity",
)
COLUMNS = [
    "dictionary",
    "run",
    "latents",
    "sparsity",
    "seed",
    "model",
    "step",
    "hook",
    "split",
    "metric",
    "value",
    "tokens",
]


def _metrics(workspace: Workspace, dictionary: str, run: str, table: str) -> pd.DataFrame:
    return pd.read_csv(workspace.folder / "results/metrics" / dictionary / run / f"{table}.csv")


@pytest.mark.parametrize(("dictionary", "run"), RUNS)
def test_reconstruction_is_far_better_than_the_mean_and_not_perfect(
    finished: Workspace, dictionary: str, run: str
) -> None:
    table = _metrics(finished, dictionary, run, "reconstruction")
    assert list(table.columns) == COLUMNS
    fvu = table[table.metric == "fvu"].value
    assert len(fvu) == (5 if dictionary == "crosscoder" else 2)
    assert fvu.between(0.001, 0.6).all()


@pytest.mark.parametrize(("dictionary", "run"), RUNS)
def test_recovered_loss_lies_between_ablation_and_clean(finished: Workspace, dictionary: str, run: str) -> None:
    table = _metrics(finished, dictionary, run, "nll-neox")
    last = table[table.step == 64].set_index("metric").value
    assert last.nll_clean < last.nll_reconstructed < last.nll_mean_ablated
    assert 0 < last.recovered_mean < 1


def test_language_model_learns(finished: Workspace) -> None:
    table = pd.read_csv(finished.folder / "results/models/neox/training.csv")
    heldout = table[table.split == "heldout"].set_index("step").loss
    assert heldout.loc[64] < heldout.loc[0] - 1
    assert list(heldout.index) == [0, 1, 4, 16, 64]


def test_language_model_learns_unigrams_first(finished: Workspace) -> None:
    table = pd.read_csv(finished.folder / "results/metrics/ngram-neox.csv")
    value = table.assign(step=table.step.fillna(-1).astype(int)).set_index(["step", "metric"]).value
    assert [value[step, "kl_unigram"] for step in (0, 64)] == sorted([value[0, "kl_unigram"], value[64, "kl_unigram"]])[
        ::-1
    ]
    assert value[64, "nll"] < value[0, "nll"] - 1
    assert value[-1, "nll_bigram"] < value[-1, "nll_unigram"] < value[0, "nll"]


def test_dictionaries_learn(finished: Workspace) -> None:
    for dictionary, run in RUNS:
        loss = pd.read_csv(finished.folder / "results/dictionaries" / dictionary / run / "training.csv").loss
        assert loss.iloc[-1] < loss.iloc[0] / 2


def test_every_site_holds_the_same_rows(finished: Workspace) -> None:
    folder = finished.folder / "results/activations"
    for shard in ("train-00000", "train-00001", "heldout-00000"):
        with h5py.File(folder / "rows" / f"{shard}.h5") as rows:
            expected = rows.attrs["rows_hash"]
        hashes = []
        for step in (0, 4, 16, 64):
            with h5py.File(folder / f"neox/step{step}/blocks.1.hook_resid_post/{shard}.h5") as file:
                hashes.append(file.attrs["rows_hash"])
        assert hashes == [expected] * 4


def test_no_document_is_in_both_splits(finished: Workspace) -> None:
    from datasets import load_from_disk

    corpus = load_from_disk(str(finished.folder / "results/corpus"))
    train, heldout = set(corpus["train"]["id"]), set(corpus["heldout"]["id"])
    assert len(heldout) == 6
    assert len(train) == 54
    assert not train & heldout


def test_features_and_samples_belong_together(finished: Workspace) -> None:
    folder = finished.folder / "results/features/crosscoder/latents128-k8-seed0"
    table, samples = pd.read_parquet(folder / "features.parquet"), pd.read_parquet(folder / "samples.parquet")
    assert list(table.feature) == list(range(128))
    alive = table[table.density > 0]
    top = samples[samples["quantile"].isna() & (samples["rank"] == 0)].set_index("feature").activation
    assert top.loc[alive.feature].to_numpy() == pytest.approx(alive.max_activation.to_numpy(), rel=1e-5)
    assert set(samples["quantile"].dropna()) == {0, 1, 2, 3}
    assert (samples.readings.map(len) == 4 * samples.tokens.map(len)).all(), "a byte for each of four sites"
    assert (table.histogram.map(sum) == (table.density * 4096).round()).all()


def test_decoders_and_attributions_are_of_all_features(finished: Workspace) -> None:
    results = finished.folder / "results"
    for (dictionary, run), sites in zip(RUNS, (4, 4, 1), strict=True):
        table = pd.read_parquet(results / f"features/{dictionary}/{run}/decoders.parquet")
        assert list(table.feature) == list(range(128))
        assert {len(rotation) for rotation in table.rotation} == {sites**2}
        assert {len(neighbours) for neighbours in table.neighbours} == {8}
        assert {len(tokens) for promoted in table.promoted for tokens in promoted} == {10}
        assert table.promoted.map(len).eq(sites).all()
    shown = results / "metrics/crosscoder/latents128-k8-seed0"
    attributed, leading = (
        pd.read_parquet(shown / "attributions-neox.parquet"),
        _metrics(finished, *RUNS[1], "attribution-neox"),
    )
    assert list(attributed.columns) == ["feature", *dict.fromkeys(leading.task)]
    for task in attributed.columns[1:]:
        first = leading[(leading.task == task) & (leading.step == 0)]
        own = attributed[task].map(lambda values: values[0])
        assert own[first.feature].to_numpy() == pytest.approx(first.integrated_gradients.to_numpy(), rel=1e-5)


def test_every_feature_and_sample_is_in_the_database(finished: Workspace) -> None:
    results = finished.folder / "results"
    with connect(DatabaseSettings(), results / "database/server") as database:
        assert database[FEATURES].count_documents({}) == 128 * len(RUNS)
        for dictionary, run in RUNS:
            table = pd.read_parquet(results / f"features/{dictionary}/{run}/features.parquet")
            samples = pd.read_parquet(results / f"features/{dictionary}/{run}/samples.parquet")
            stored = visible_run(database, RunName("default", dictionary, run))
            found = read_features(database, stored, range(128))
            assert [feature.feature for feature in found] == list(range(128))
            assert [feature.density for feature in found] == table.density.tolist()
            counted = [len(read_details(database, stored, number).samples) for number in range(128)]
            assert counted == samples.feature.value_counts().reindex(range(128), fill_value=0).tolist()
            receipt = json.loads((results / f"database/{dictionary}/{run}.json").read_text())
            assert (receipt["hash"], receipt["counts"]) == (stored.hash, stored.counts.model_dump())


def test_figures_and_their_numbers_are_there(finished: Workspace) -> None:
    folder = finished.folder / "results/figures"
    for name in FIGURES:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert len(pd.read_csv(folder / f"{name}.csv")) > 3
    assert "index.html" in {file.name for file in folder.iterdir()}


def test_report_shows_every_figure_with_its_caption(finished: Workspace) -> None:
    done = finished.snakemake("--report", "report.html", "--", "results/figures/")
    assert done.returncode == 0, done.stderr
    report = (finished.folder / "report.html").read_text()
    start = report.index('{"results/figures/')
    shown, _ = json.JSONDecoder().raw_decode(report, start)
    for name in FIGURES:
        picture = finished.folder / f"results/figures/{name}.png"
        entry = shown[f"results/figures/{name}.png"]
        assert base64.b64decode(entry["data_uri"].partition("base64,")[2]) == picture.read_bytes()
        caption = " ".join(html.unescape(re.sub("<[^>]*>", "", entry["caption"])).split())
        assert caption.startswith(figure_module(name).DESCRIPTION)
        assert caption.endswith(f"Study default; the numbers drawn are in results/figures/{name}.csv.")
