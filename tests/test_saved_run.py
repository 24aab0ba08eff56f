"""What a trained run leaves behind: files that say of raw rows what training said of scaled ones, and what was trained."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from crosscoder_runs import (
    GATES,
    UNEVEN_SHARDS,
    run_settings,
    scaled,
    stepper_of,
    train_small,
    uneven_settings,
    write_uneven,
)

from ontogeny.crosscoder.model import load_crosscoder, save_crosscoder
from ontogeny.errors import UserError


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_uneven(tmp_path_factory.mktemp("activations"))


@pytest.mark.parametrize(("nonlinearity", "gate"), GATES)
def test_a_saved_run_says_of_raw_rows_what_training_said_of_scaled_ones(
    nonlinearity: str, gate: str, activations: Path, tmp_path: Path
) -> None:
    k = 3 if nonlinearity in ("topk", "batchtopk") else None
    stepper, reader = stepper_of(activations, uneven_settings(nonlinearity=nonlinearity, gate=gate, k=k, center=True))
    for batch in itertools.islice(reader.batches(), 10):
        stepper.step(batch.raw_BSD, logged=False)
    raw_BSD = reader.read(11).raw_BSD
    x_BSD = scaled(stepper, raw_BSD)
    terms = stepper.objective(x_BSD, 0.0, stepper.dead_N)
    if terms.least_kept is not None:
        stepper.crosscoder.thresholds().copy_(terms.least_kept * (1 - 1e-6))
    save_crosscoder(tmp_path, stepper.crosscoder, {})
    loaded = load_crosscoder(tmp_path)
    said_BSD = loaded.scaled(loaded(raw_BSD))
    torch.testing.assert_close(said_BSD, (x_BSD + terms.error_BSD).cpu(), rtol=1e-4, atol=1e-4)
    assert (x_BSD + terms.error_BSD - stepper.mean_SD).abs().max() > 0.1


def test_shards_with_other_rows_than_the_study_claims_are_refused(activations: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 shards hold 4096 rows, but the study counts 5000"):
        train_small(tmp_path, run_settings(5000, UNEVEN_SHARDS), activations)


@pytest.mark.parametrize(("penalty", "coefficient"), [("none", None), ("l1", 0.1)])
def test_config_holds_k_and_the_coefficient_apart(
    activations: Path, tmp_path: Path, penalty: str, coefficient: float | None
) -> None:
    train_small(tmp_path, uneven_settings(penalty=penalty, sparsity=coefficient), activations)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["k"], config["coefficient"], config["sparsity"]) == (2, coefficient, 2.0)


def test_config_says_what_was_trained_and_on_how_many_rows(activations: Path, tmp_path: Path) -> None:
    train_small(tmp_path, uneven_settings(epochs=2, batch_size=1000), activations)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {key: config[key] for key in ("dictionary", "run", "sparsity", "seed", "tokens", "k", "study")} == {
        "dictionary": "crosscoder",
        "run": "run",
        "sparsity": 2.0,
        "seed": 0,
        "tokens": 8000,
        "k": 2,
        "study": None,
    }
    assert "torch" in config["versions"]
