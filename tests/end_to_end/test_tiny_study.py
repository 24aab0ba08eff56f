"""The numbers of a whole study, run by the commands that a user types."""

import json

import h5py
import pandas as pd
import pytest

from .conftest import Workspace

RUNS = [
    ("crosscoder", "latents128-k4-seed0"),
    ("crosscoder", "latents128-k8-seed0"),
    ("sae", "latents128-sparsity0.5-seed0"),
]
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
    features, samples = pd.read_parquet(folder / "features.parquet"), pd.read_parquet(folder / "samples.parquet")
    assert list(features.feature) == list(range(128))
    alive = features[features.density > 0]
    top = samples[samples["rank"] == samples["rank"].min()].set_index("feature").activation
    assert top.loc[alive.feature].to_numpy() == pytest.approx(alive.max_activation.to_numpy(), rel=1e-5)


def test_every_feature_is_in_the_database(finished: Workspace) -> None:
    for dictionary, run in RUNS:
        receipt = json.loads((finished.folder / f"results/database/{dictionary}/{run}.json").read_text())
        assert receipt["counts"]["features"] == 128


def test_figures_and_their_numbers_are_there(finished: Workspace) -> None:
    folder = finished.folder / "results/figures"
    for name in ("pareto", "reconstruction", "decoder_norms", "language_model"):
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert len(pd.read_csv(folder / f"{name}.csv")) > 3
    assert "index.html" in {file.name for file in folder.iterdir()}


def test_report_shows_the_figures(finished: Workspace) -> None:
    done = finished.snakemake("--report", "report.html", "--", "results/figures/")
    assert done.returncode == 0, done.stderr
    report = (finished.folder / "report.html").read_text()
    assert all(name in report for name in ("pareto", "decoder_norms", "Sparsity and reconstruction"))
