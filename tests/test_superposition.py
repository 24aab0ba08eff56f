"""Sweeps over planted features: what is measured of them, by hand, and that the right penalty finds what was planted."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from numpy.typing import NDArray
from planted_runs import HOOK, write_rows_file

from ontogeny.activations.planted import write_planted
from ontogeny.activations.planted_features import read_directions, write_directions
from ontogeny.activations.statistics import write_statistics
from ontogeny.activations.store import write_shard
from ontogeny.config.load import load_study
from ontogeny.config.models import PlantedModel
from ontogeny.config.study import Study
from ontogeny.crosscoder.model import Crosscoder, save_crosscoder
from ontogeny.crosscoder.sweep_trainer import train_sweep
from ontogeny.errors import UserError
from ontogeny.evaluation.superposition import write_superposition
from ontogeny.evaluation.tables import COLUMNS
from ontogeny.sites import Site

CONFIG = Path(__file__).parents[1] / "configs/superposition-small.yaml"
SHARD = "heldout-00000"


def small_study(dictionary: dict[str, Any], **changes: Any) -> Study:
    """Read `configs/superposition-small.yaml` with changes to its dictionary and to parts of the study."""
    config = yaml.safe_load(CONFIG.read_text())
    config["dictionaries"]["sae"] |= dictionary
    return load_study(config | changes)


def write_planted_activations(folder: Path, study: Study) -> PlantedModel:
    """Write all shards of the planted model, and where its features point, as the pipeline does."""
    (site,), model = study.sites("sae"), study.models["toy"]
    assert isinstance(model, PlantedModel)
    for split in ("train", "heldout"):
        for shard, rows in study.shards(split).items():
            file = write_rows_file(folder / "rows" / f"{shard}.h5", rows)
            write_planted(model, site, file, "float16", folder / site.key / file.name, None)
    train = [folder / site.key / f"{shard}.h5" for shard in study.shards("train")]
    write_statistics(train, folder / site.key / "statistics.json", None)
    write_directions(model, HOOK, folder / "directions.safetensors", None)
    return model


def measured(folder: Path, activations: Path, runs: list[str]) -> pd.DataFrame:
    """Measure runs, one row a run and one column a metric."""
    out = folder / "superposition.csv"
    directions = activations / "directions.safetensors"
    write_superposition(folder, runs, "toy", HOOK, directions, activations, [SHARD], out)
    table = pd.read_csv(out)
    assert table.columns.tolist() == list(COLUMNS)
    assert set(table["hook"]) == {HOOK}
    return table.pivot(index="run", columns="metric", values="value")


def test_the_right_penalty_finds_what_was_planted_and_others_fail_as_they_must(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    study = small_study(
        {"latents": [32, 64, 128], "sparsity": [0.01, 1.0, 100.0], "learning_rate": 3e-3, "epochs": 2},
        activations={"train_rows": 131072, "heldout_rows": 8192, "rows_per_shard": 131072},
    )
    write_planted_activations(tmp_path / "activations", study)
    runs = study.runs("sae")
    train_sweep(list(runs.values()), tmp_path / "activations", tmp_path / "state", tmp_path / "sae")
    found = measured(tmp_path / "sae", tmp_path / "activations", list(runs))
    weak, right, strong = ([f"latents{n}-sparsity{c}-seed0" for n in (64, 128)] for c in ("0.01", "1", "100"))
    assert (found.loc[right, "mmcs_planted"] > 0.9).all()
    assert (found.loc[right, "recovered_features"] > 0.75).all()
    assert found.loc[right, "l0"].between(3, 20).all()
    assert (found.loc[weak + strong, "mmcs_planted"] < 0.6).all()
    assert (found.loc[weak + strong, "recovered_features"] == 0).all()
    assert (found.loc[weak, "fvu"] < 0.01).all(), "too weak: all latents fire, and reconstruct"
    assert (found.loc[weak, "l0"] > 40).all()
    assert (found.loc[strong, "fvu"] > 0.9).all(), "too strong: next to nothing fires"
    assert (found.loc[strong, "l0"] < 0.1).all()
    larger = found["mmcs_larger"]
    assert larger[right[0]] > 0.9 > 0.6 > max(larger[weak[0]], larger[strong[0]]), "which needs no truth"


def test_measures_are_those_counted_by_hand(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    study = small_study({}, activations={"train_rows": 512, "heldout_rows": 600, "rows_per_shard": 1024})
    model = write_planted_activations(tmp_path, study)
    (site,) = study.sites("sae")
    x_BD = random.standard_normal((600, model.d_model)).astype(np.float32)
    x_BD[:, 0] = -1.0
    x_BD[-1, 0] = 1.0
    write_shard(tmp_path / site.key / f"{SHARD}.h5", x_BD, site, "rows", "float16", {})
    x_BD = x_BD.astype(np.float16).astype(np.float64)
    small, large = (_write_random_run(tmp_path / "sae", site, latents, random) for latents in (6, 9))
    _write_random_run(tmp_path / "sae", site, 7, random, sparsity=2.0)
    runs = [folder.name for folder in sorted((tmp_path / "sae").iterdir())]
    found = measured(tmp_path / "sae", tmp_path, runs)

    h_BL = 2.0 * x_BD @ small.W_enc_LSD[:, 0].detach().numpy().T.astype(np.float64) + small.b_enc.detach().numpy()
    f_BL = np.maximum(h_BL, 0)
    W_LD, larger_LD = (one.W_dec[:, 0].detach().numpy().astype(np.float64) for one in (small, large))
    error_BD = x_BD - f_BL @ W_LD / 2.0
    row = found.loc["latents6-sparsity1-seed0"]
    assert row["mse"] == pytest.approx((error_BD**2).mean(), rel=1e-5)
    assert row["fvu"] == pytest.approx((error_BD**2).sum() / ((x_BD - x_BD.mean(0)) ** 2).sum(), rel=1e-5)
    assert row["l0"] == pytest.approx((f_BL > 0).sum(1).mean())
    assert (f_BL[:, 0] > 0).nonzero()[0].tolist() == [599], "latent 0 fires on the last row alone"
    assert row["dead"] == pytest.approx(1 / 6), "latent 1 is dead, latent 0 is not"
    planted_GD = _directions(tmp_path)
    firing = [0, 2, 3, 4, 5]
    assert row["mmcs_planted"] == pytest.approx(_mean_best(planted_GD, W_LD[firing]))
    assert row["mmcs_learnt"] == pytest.approx(_mean_best(W_LD[firing], planted_GD))
    assert row["recovered_features"] == 0
    assert row["planted_features"] == len(planted_GD) == 64
    assert row["mmcs_larger"] == pytest.approx(_mean_best(W_LD, larger_LD)), "of the same coefficient"
    assert row["mmcs_larger_firing"] == pytest.approx(_mean_best(W_LD[firing], larger_LD[[0, *range(2, 9)]]))
    assert row["found_larger"] == 0
    assert found["mmcs_larger"].isna().tolist() == [False, True, True]


def test_what_is_planted_and_what_is_larger_is_found_whole(tmp_path: Path) -> None:
    study = small_study({}, activations={"train_rows": 512, "heldout_rows": 600, "rows_per_shard": 1024})
    write_planted_activations(tmp_path, study)
    (site,), planted_GD = study.sites("sae"), _directions(tmp_path)
    for latents in (48, 64):
        crosscoder = Crosscoder([site], planted_GD.shape[1], latents, "relu")
        with torch.no_grad():
            crosscoder.W_dec[:, 0] = crosscoder.W_enc_LSD[:, 0] = torch.from_numpy(3 * planted_GD[:latents])
        _save(tmp_path / "sae" / f"latents{latents}", crosscoder, 1.0)
    found = measured(tmp_path / "sae", tmp_path, ["latents48", "latents64"])
    assert found["recovered_features"].tolist() == pytest.approx([0.75, 1])
    assert found["mmcs_planted"].iloc[1] == pytest.approx(1)
    assert found["mmcs_learnt"].tolist() == pytest.approx([1, 1])
    assert found["mmcs_larger"].iloc[0] == pytest.approx(1)
    assert found["found_larger"].iloc[0] == 48


def test_a_study_says_what_a_sweep_needs() -> None:
    with pytest.raises(UserError, match=r"'tied' lets all sizes start from the same directions.*write 'independent'"):
        small_study({"initialisation": "tied"})
    study = small_study({})
    assert study.figure_names() == ("superposition",)
    for change in ({"sweep": "apart"}, {"dead": {"policy": "auxk"}}, {"shared": {"share": 0.5}}):
        assert "superposition" not in small_study(change).figure_names()


def _directions(folder: Path) -> NDArray[np.float32]:
    return read_directions(folder / "directions.safetensors")[1][:, 0]


def _write_random_run(
    folder: Path, site: Site, latents: int, random: np.random.Generator, sparsity: float = 1.0
) -> Crosscoder:
    """Write a run whose latent 0 fires where channel 0 is above 0, and whose latent 1 never fires."""
    crosscoder = Crosscoder([site], 32, latents, "relu")
    with torch.no_grad():
        for weights in (crosscoder.W_enc_LSD, crosscoder.W_dec):
            weights.copy_(torch.from_numpy(random.standard_normal(weights.shape, dtype=np.float32)))
        crosscoder.W_enc_LSD[:2] = 0
        crosscoder.W_enc_LSD[0, 0, 0] = 1
        crosscoder.b_enc[1] = -1
        crosscoder.scales[0] = 2
    _save(folder / f"latents{latents}-sparsity{sparsity:g}-seed0", crosscoder, sparsity)
    return crosscoder


def _save(folder: Path, crosscoder: Crosscoder, sparsity: float) -> None:
    folder.mkdir(parents=True)
    known = {"dictionary": "sae", "run": folder.name, "sparsity": sparsity, "seed": 0}
    save_crosscoder(folder, crosscoder, known)


def _mean_best(of_ND: NDArray[np.floating], among_KD: NDArray[np.floating]) -> float:
    """Compute a mean over vectors of the highest cosine with others, in float64 and one by one."""
    best = []
    for one_D in of_ND.astype(np.float64):
        lengths = [np.linalg.norm(one_D) * np.linalg.norm(other_D.astype(np.float64)) for other_D in among_KD]
        best.append(max(one_D @ other_D / length for other_D, length in zip(among_KD, lengths, strict=True)))
    return float(np.mean(best))
