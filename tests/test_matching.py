"""Features of two dictionaries: matched by direction, dated on the checkpoints of both, and compared."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_study import random_crosscoder, save, script
from figure_tables import features
from numpy.typing import NDArray
from planted_runs import HOOK, planted_model, planted_study, site_of, train_on_planted, write_rows_file

from ontogeny.activations.planted import write_planted
from ontogeny.activations.planted_features import planted_directions, planted_features
from ontogeny.config.models import PlantedModel
from ontogeny.errors import UserError
from ontogeny.evaluation import matching
from ontogeny.evaluation.matching import mutual_matches
from ontogeny.evaluation.matching_tables import Side, agreement_table, first_shared, matched_pairs, side, write_matching
from ontogeny.evaluation.tables import RunIdentity
from ontogeny.sites import Site

STEPS = (0, 1, 2, 4, 8, 16)
SITES = tuple(site_of(step) for step in STEPS)
EVOLVING = planted_model(checkpoints=list(STEPS), d_model=24, features=60, emergent=0.5, dying=0.2, rotating=0.2)
DATES = planted_features(EVOLVING).emergence


def planted_side(directions_LSD: NDArray[np.floating], dictionary: str = "crosscoder", seed: int = 0) -> Side:
    """A run that has learnt these directions."""
    run = RunIdentity(dictionary, f"latents60-seed{seed}", len(directions_LSD), 0.0, seed)
    return side(run, np.arange(len(directions_LSD)), directions_LSD.astype(np.float32), SITES, 0.5)


def learnt(seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The planted directions as another run would have them: in another order, of other sizes, with noise and more."""
    random = np.random.default_rng(seed)
    order = random.permutation(60)
    noisy_LSD = planted_directions(EVOLVING, HOOK)[order] * random.uniform(0.5, 2, (60, 1, 1))
    noisy_LSD = noisy_LSD + 0.02 * random.standard_normal(noisy_LSD.shape)
    return np.concatenate([noisy_LSD, random.standard_normal((20, *noisy_LSD.shape[1:]))]), order


def numbers(reference: Side, other: Side, cosine: float = 0.7) -> tuple[pd.DataFrame, dict[tuple[str, str], pd.Series]]:
    """Pairs, and the rows of the table of agreement by group and metric."""
    shared = [site for site in reference.sites if site in other.sites]
    pairs = matched_pairs(reference, other, shared, cosine)
    table = agreement_table(reference, other, shared, pairs)
    return pairs, {(row["group"], row["metric"]): row for _, row in table.iterrows()}


def test_two_dictionaries_of_one_truth_match_their_features_and_dates() -> None:
    other_LSD, order = learnt(1)
    pairs, found = numbers(planted_side(planted_directions(EVOLVING, HOOK)), planted_side(other_LSD, "other"))
    matched = pairs[pairs["matched"]]
    assert matched["feature"].tolist() == list(range(60))
    assert (order[matched["other_feature"]] == matched["feature"]).all(), "each is matched with itself"
    assert matched["emergence_step"].tolist() == [STEPS[date] for date in DATES]
    assert found["all", "matched_share"]["value"] == 1
    assert found["all", "other_matched_share"]["value"] == 60 / 80
    assert found["all", "equal"]["value"] == found["all", "spearman"]["value"] == 1
    assert found["all", "permutation_p"]["value"] == 1e-4
    assert found["emergent", "matched_share"]["features"] == found["emergent in both", "equal"]["features"] == 30


def test_shuffled_features_do_not_match() -> None:
    other_LSD = planted_directions(EVOLVING, HOOK).copy()
    random = np.random.default_rng(0)
    for place in range(len(STEPS)):
        other_LSD[:, place] = random.permuted(other_LSD[:, place], axis=1)
    _, found = numbers(planted_side(planted_directions(EVOLVING, HOOK)), planted_side(other_LSD, "other"))
    assert found["all", "matched_share"]["value"] < 0.1


def test_features_are_matched_by_direction_so_that_other_dates_show() -> None:
    """Were pairs chosen by their norms as well, those that are dated otherwise would go unmatched."""
    random = np.random.default_rng(4)
    unit_LSD = np.repeat(random.standard_normal((400, 1, 24)), len(STEPS), axis=1)
    dates_L, others_L = random.integers(0, len(STEPS), (2, 400))
    there_TS = np.where(np.arange(len(STEPS)) >= np.arange(len(STEPS))[:, None], 1.0, 0.05)
    reference, other = (planted_side(unit_LSD * there_TS[dates][:, :, None]) for dates in (dates_L, others_L))
    pairs, found = numbers(reference, other)
    assert found["all", "matched_share"]["value"] == 1
    assert pairs["emergence_step"].tolist() == [STEPS[date] for date in dates_L]
    assert pairs["other_emergence_step"].tolist() == [STEPS[date] for date in others_L]
    assert found["all", "equal"]["value"] == (dates_L == others_L).mean()
    assert found["all", "equal"]["low"] < found["all", "equal_by_chance"]["value"] < found["all", "equal"]["high"]
    assert found["all", "permutation_p"]["value"] > 0.01
    assert found["all", "spearman"]["low"] < 0 < found["all", "spearman"]["high"]


@pytest.mark.parametrize("block", [7, 2048])
def test_matches_are_those_of_all_pairs_in_float64(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "BLOCK", block)
    random = np.random.default_rng(2)
    reference_LSD = random.standard_normal((50, 4, 8)).astype(np.float32) * random.uniform(0, 3, (50, 4, 1))
    other_KSD = np.concatenate([reference_LSD[::-1][:30] + random.standard_normal((30, 4, 8)), reference_LSD[:5] * 0])
    other_KSD[3, 1] = 0.0
    cosines_LK = np.zeros((50, 35))
    for i, ours_SD in enumerate(reference_LSD.astype(np.float64)):
        for j, theirs_SD in enumerate(other_KSD.astype(np.float64)):
            for ours_D, theirs_D in zip(ours_SD, theirs_SD, strict=True):
                if np.linalg.norm(theirs_D) > 0:
                    cosine = ours_D @ theirs_D / np.linalg.norm(ours_D) / np.linalg.norm(theirs_D)
                    cosines_LK[i, j] += cosine * (ours_D @ ours_D) / np.square(ours_SD).sum()
    expected = [(i, int(row.argmax())) for i, row in enumerate(cosines_LK) if cosines_LK[:, row.argmax()].argmax() == i]
    found = mutual_matches(reference_LSD, other_KSD)
    assert list(zip(found.reference.tolist(), found.other.tolist(), strict=True)) == expected
    assert found.cosine == pytest.approx([cosines_LK[pair] for pair in expected], abs=1e-6)
    assert 10 < len(expected) < 35


def test_dates_are_compared_at_the_first_shared_checkpoint_at_or_after_them() -> None:
    shared = [site_of(step) for step in (0, 4, 16)]
    assert first_shared(np.array([0, 1, 4, 5, 16, 17]), shared).tolist() == [0, 1, 1, 2, 2, 3]


def test_features_that_emerge_after_the_last_shared_checkpoint_are_counted_apart() -> None:
    directions_LSD = planted_directions(EVOLVING, HOOK)
    reference = planted_side(directions_LSD)
    run = RunIdentity("half", "latents60-seed0", 60, 0.0, 0)
    half = side(run, np.arange(60), directions_LSD[:, ::2].astype(np.float32), SITES[::2], 0.5)  # 0, 2 and 8
    pairs, found = numbers(reference, half)
    late = (DATES == 5)[pairs["feature"]]
    assert pairs["shared_step"].isna().tolist() == late.tolist()
    matched = pairs[pairs["matched"]]
    assert found["all", "after_the_last_step"]["value"] == matched["shared_step"].isna().mean()
    assert (matched["shared_step"] == matched["other_shared_step"]).all()
    assert (matched["emergence_step"] != matched["other_emergence_step"]).any()


def test_other_checkpoints_and_another_seed_find_the_planted_dates(tmp_path: Path) -> None:
    """The recipe of configs/planted.yaml, trained twice: on eight checkpoints, and with another seed on four of them."""
    study = planted_study()
    model = study.models["toy"]
    assert isinstance(model, PlantedModel)
    settings = study.runs("crosscoder")[study.featured_run()[1]]
    sides = []
    for name, places, seed in (("whole", slice(None), 0), ("half", slice(1, None, 2), 1)):
        chosen = settings.model_copy(update={"sites": settings.sites[places], "seed": seed})
        run = train_on_planted(tmp_path / name, study, model, chosen)
        firing = np.flatnonzero(np.linalg.norm(run.decoder_LSD, axis=2).max(axis=1) > 0.3)
        identity = RunIdentity(name, "run", 96, 0.5, seed)
        sides.append(side(identity, firing, run.decoder_LSD[firing], chosen.sites, 0.5))
    _, found = numbers(*sides)
    assert found["all", "other_matched_share"]["features"] > 40
    assert found["all", "equal"]["features"] > 40
    assert found["all", "equal"]["value"] > 0.9
    assert found["emergent in both", "spearman"]["value"] > 0.8
    assert found["all", "permutation_p"]["value"] < 1e-3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two saved runs: one of four checkpoints, and one of two of them in the other order; latent 3 of that never fires."""
    folder = tmp_path_factory.mktemp("runs")
    sites = tuple(Site("toy", step, HOOK) for step in (0, 1, 2, 4))
    model = planted_model(checkpoints=[0, 1, 2, 4], features=12, d_model=16)
    write_rows_file(folder / "activations/rows/heldout-00000.h5", 500)
    for site in sites:
        path = folder / "activations" / site.key / "heldout-00000.h5"
        write_planted(model, site, folder / "activations/rows/heldout-00000.h5", "float16", path, None)
    whole, half = random_crosscoder(16, "relu", sites=sites), random_crosscoder(16, "relu", sites=(sites[2], sites[0]))
    with torch.no_grad():
        whole.W_dec[::2, 0] *= 0.1
        half.W_dec.copy_(whole.W_dec[:, [2, 0]])
        half.b_enc.fill_(1e3)
        half.b_enc[3] = -1e6
    save(folder, whole, "crosscoder", "latents2048-k32-seed0")
    save(folder, half, "half")
    save(folder, random_crosscoder(16, "relu", sites=sites[:1]), "one")
    features(folder, whole.decoder_norms().detach().numpy(), sites=sites)
    return folder


def options(folder: Path, other: str, out: Path) -> list[object]:
    run = "crosscoder/latents2048-k32-seed0"
    return [
        *("--dictionary", folder / "dictionaries" / run, "--features", folder / "features" / run / "features.parquet"),
        *("--other", folder / "dictionaries" / other / "run", "--activations", folder / "activations"),
        *("--shards", "heldout-00000", "--cosine", 0.7, "--out", out),
    ]


def test_tables_are_of_features_that_fire_in_either_run(runs: Path, tmp_path: Path) -> None:
    done = script("matching.py", *options(runs, "half", tmp_path))
    assert done.returncode == 0, done.stderr
    pairs, agreement = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("pairs", "agreement"))
    dead = pd.read_parquet(runs / "features/crosscoder/latents2048-k32-seed0/features.parquet").query("dead")["feature"]
    assert len(dead) == 2
    expected = sorted(set(range(40)) - {3, *dead})
    assert pairs["feature"].tolist() == pairs["other_feature"].tolist() == expected, "latent 3 of the other is silent"
    assert pairs["cosine"].to_numpy() == pytest.approx(1, abs=1e-5), "whatever the order of the sites"
    assert set(pairs["other_emergence_step"]) == {0, 2}
    assert agreement["checkpoints"].unique().tolist() == ["0 2"]
    assert agreement["rows"].unique().tolist() == [500]
    shares = agreement[agreement["group"] == "all"].set_index("metric")
    assert shares.loc["matched_share", ["value", "features"]].tolist() == [len(expected) / 38, 38]
    assert shares.loc["equal", "value"] == (pairs["shared_step"] == pairs["other_shared_step"]).mean()


def test_mistakes_are_one_line(runs: Path, tmp_path: Path) -> None:
    done = script("matching.py", *options(runs, "one", tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "it has 1 of the sites of" in done.stderr
    file = runs / "features/crosscoder/latents2048-k32-seed0/features.parquet"
    with pytest.raises(UserError, match="it is not of the run in"):
        write_matching(
            runs / "dictionaries/half/run", file, runs / "dictionaries/one/run", runs / "activations", [], 0.7, tmp_path
        )
    assert list(tmp_path.iterdir()) == []
