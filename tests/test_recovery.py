"""The table of recovery says of a dictionary what is known of it beforehand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_runs import planted_model, write_rows_file
from test_truth import LEARNT_LSD, PLANTED_GSD

from ontogeny.activations.planted import write_planted
from ontogeny.activations.planted_features import planted_directions, write_directions
from ontogeny.config.models import PlantedModel
from ontogeny.crosscoder.model import Crosscoder, save_crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.recovery import recovery, write_recovery
from ontogeny.evaluation.tables import COLUMNS
from ontogeny.sites import Site

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
STEPS = (0, 8, 64)
MODEL = planted_model(
    checkpoints=STEPS, features=12, d_model=16, active=2.0, emergent=0.25, dying=0.25, rotating=0.25, rotation=60
)
IDENTITY = {"dictionary": "crosscoder", "run": "latents14", "sparsity": 1.0, "seed": 0}


def test_recovery_is_that_counted_by_hand() -> None:
    found = recovery(LEARNT_LSD, PLANTED_GSD, np.ones(3), 0.5)
    near, half = 4 / (8.01**0.5 * 2**0.5), (2 / 3) ** 0.5
    assert found == pytest.approx(
        {
            "recovered_features": 2 / 3,
            "mmcs_planted": (half + near + 1) / 3,
            "mmcs_learnt": (near + 0 + 1 + half) / 4,
            "emergence_exact": 1,
            "death_exact": 1,
            "rotation_error": 0,
            "rotation_error_largest": 0,
        },
        abs=1e-6,
    )
    less_LSD = LEARNT_LSD.astype(float)
    less_LSD[2, 2] = [3 * 0.5, 3 * 0.75**0.5]  # feature 2 turns by 60 degrees and not by 90
    found = recovery(less_LSD, PLANTED_GSD, np.ones(3), 0.5)
    assert (found["rotation_error"], found["rotation_error_largest"]) == pytest.approx((30, 30))


def test_dates_of_recovered_features_are_right_or_wrong() -> None:
    there_GS = np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    planted_GSD = there_GS[:, :, None] * np.eye(3)[:, None]
    learnt_GSD = planted_GSD.copy()
    learnt_GSD[0, 2, 0] = learnt_GSD[1, 3, 1] = 0.6  # a checkpoint too early, and one too late
    found = recovery(learnt_GSD, planted_GSD, np.ones(6), 0.5)
    assert found["recovered_features"] == 1
    assert (found["emergence_exact"], found["death_exact"]) == (2 / 3, 2 / 3)
    assert "rotation_error" not in found, "none turns"
    assert recovery(learnt_GSD, planted_GSD, np.ones(6), 0.7)["emergence_exact"] == 1


def test_scales_of_sites_belong_to_what_was_planted() -> None:
    scales_S = np.array([1.0, 2, 4])
    found = recovery(PLANTED_GSD * scales_S[:, None], PLANTED_GSD, scales_S, 0.2)
    assert found["recovered_features"] == found["emergence_exact"] == found["death_exact"] == 1
    assert found["mmcs_planted"] == found["mmcs_learnt"] == pytest.approx(1)


def test_features_that_are_at_none_of_the_sites_do_not_count() -> None:
    found = recovery(LEARNT_LSD[2:, :1], PLANTED_GSD[:, :1], np.ones(1), 0.5)
    assert (found["recovered_features"], found["mmcs_planted"]) == (1, 1)
    assert recovery(LEARNT_LSD[:0], PLANTED_GSD, np.ones(3), 0.5) == {"recovered_features": 0.0}
    assert recovery(LEARNT_LSD, PLANTED_GSD[:0], np.ones(3), 0.5) == {}


def write_shards(folder: Path, model: PlantedModel, name: str, sites: tuple[Site, ...]) -> None:
    """Write a heldout shard of some sites, and the directions of their hooks."""
    rows = folder / "rows" / "heldout-00000.h5"
    for site in sites:
        write_planted(model, site, rows, "float16", folder / site.key / rows.name, None)
        write_directions(model, site.hook, folder / name / f"{site.hook}.safetensors", None)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary over two planted models that holds the truth of the first one at two hooks, and some more."""
    folder = tmp_path_factory.mktemp("known")
    write_rows_file(folder / "rows" / "heldout-00000.h5", 2000)
    other = planted_model(checkpoints=[0], features=12, d_model=16, seed=5)
    sites = tuple(Site("toy", step, hook) for step in reversed(STEPS) for hook in HOOKS)
    write_shards(folder, MODEL, "toy", sites)
    write_shards(folder, other, "other", (Site("other", 0, HOOKS[0]),))

    crosscoder = Crosscoder((*sites, Site("other", 0, HOOKS[0])), 16, 14, "relu")
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        crosscoder.scales.copy_(torch.linspace(0.8, 1.2, 7))
        for place, site in enumerate(sites):
            direction_GD = torch.from_numpy(planted_directions(MODEL, site.hook)[:, STEPS.index(site.step)])
            crosscoder.W_dec[:12, place] = direction_GD.float() * crosscoder.scales[place]
        crosscoder.W_dec[12, -1] = torch.randn(16, generator=random)  # of the other model alone
        crosscoder.W_dec[13] = crosscoder.W_dec[0]
        crosscoder.W_dec[0] = torch.randn(7, 16, generator=random)
        crosscoder.W_enc_LSD.copy_(crosscoder.W_dec)
        crosscoder.W_enc_LSD[12:] = 0.0
        crosscoder.b_enc[12:] = torch.tensor([1.0, -1.0])  # latent 13 is feature 0, but it never fires
    (folder / "run").mkdir()
    save_crosscoder(folder / "run", crosscoder, IDENTITY)
    return folder


def written(folder: Path, out: Path, model: str = "toy") -> pd.DataFrame:
    write_recovery(folder / "run", model, folder / model, folder, ["heldout-00000"], 0.5, out / "recovery.csv")
    return pd.read_csv(out / "recovery.csv")


def test_truth_in_a_dictionary_is_found_at_each_hook(known: Path, tmp_path: Path) -> None:
    table = written(known, tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert (table["model"].unique().tolist(), table["hook"].unique().tolist()) == (["toy"], list(HOOKS))
    assert table["step"].isna().all(), "all steps of a hook are compared together"
    assert table["tokens"].unique().tolist() == [2000]
    for _, rows in table.groupby("hook"):
        found = dict(zip(rows["metric"], rows["value"], strict=True))
        assert found["recovered_features"] == pytest.approx(11 / 12), "the latent of feature 0 never fires"
        assert found["emergence_exact"] == found["death_exact"] == 1
        assert found["rotation_error_largest"] == pytest.approx(0, abs=1e-3)
        assert 11 / 12 < found["mmcs_planted"] < 1
        assert 11 / 12 < found["mmcs_learnt"] < 1, "latent 0 is random; latent 12, of the other model, does not count"


def test_recovery_of_another_model_or_of_other_checkpoints_is_refused(known: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no site of a model 'neox'; models of this dictionary are other, toy"):
        written(known, tmp_path, "neox")
    file = known / "other" / f"{HOOKS[0]}.safetensors"
    write_directions(planted_model(checkpoints=[4], features=12, d_model=16), HOOKS[0], file, None)
    with pytest.raises(UserError, match="it holds 16 channels at steps 4, but the dictionary has 16 at step 0"):
        written(known, tmp_path, "other")
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"{file}: these are no planted directions"):
        written(known, tmp_path, "other")
    assert list(tmp_path.iterdir()) == []
