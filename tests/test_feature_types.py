"""Types of features: known answers on a model made by hand, and formulas against independent computations."""

import json
from pathlib import Path

import hand_made
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from evaluation_study import script
from hand_made import BOS, CONTEXT_LENGTH, COUNT, CURRENT, INDUCTION, NOISE, POSITION, PREVIOUS, RARE, SITES

from ontogeny.config.evaluation import FeatureSettings, FeatureTypeSettings
from ontogeny.errors import UserError
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.dependence import (
    Copies,
    Samples,
    context_needed,
    induction_scores,
    random_copies,
    read_copies,
)
from ontogeny.evaluation.encoding import load_dictionary
from ontogeny.evaluation.feature_types import choose, read_samples, write_feature_types
from ontogeny.evaluation.features import write_features
from ontogeny.evaluation.token_shares import NONE, RowFirings, explained_share
from ontogeny.evaluation.type_rules import feature_types
from ontogeny.tokens import read_tokens

SETTINGS = FeatureTypeSettings()
SHARD = "heldout-00000"


def sparse(f_RF: np.ndarray) -> RowFirings:
    row, feature = np.nonzero(f_RF)
    return RowFirings(row, feature, f_RF[row, feature].astype(np.float64))


def by_hand(f_R: np.ndarray, group_R: np.ndarray) -> float:
    """The same share from its definition, in loops."""
    groups = [f_R[group_R == group] for group in np.unique(group_R[group_R != NONE])]
    groups = [group for group in groups if len(group) > 1]
    within = sum(len(group) * np.var(group, ddof=1) for group in groups)
    together = np.concatenate(groups)
    return 1 - within / (len(together) * np.var(together, ddof=1))


def test_share_against_its_definition() -> None:
    random = np.random.default_rng(0)
    group_R = random.zipf(1.4, 3000) % 400
    group_R[::50] = NONE
    f_RF = np.maximum(random.standard_normal((3000, 5)) + random.standard_normal((401, 5))[group_R] - 1, 0)
    share_F, rows = explained_share(sparse(f_RF), group_R, 6)
    assert share_F[:5] == pytest.approx([by_hand(f_R, group_R) for f_R in f_RF.T], abs=1e-12)
    assert np.isnan(share_F[5]), "a feature that never fires"
    sizes = np.bincount(group_R[group_R != NONE])
    assert rows == sizes[sizes > 1].sum()


def test_share_of_planted_features() -> None:
    """A function of the group has 1, one of groups and chance what was planted, one of chance 0 even in small groups."""
    random = np.random.default_rng(1)
    group_R = random.integers(0, 8000, 20_000)
    strength_G = np.maximum(random.standard_normal(8000), 0)
    chance_RF = np.maximum(random.standard_normal((20_000, 40)), 0)
    rare_RF = chance_RF * (random.random((20_000, 40)) < 0.02)
    mixed_RF = strength_G[group_R][:, None] + chance_RF
    f_RF = np.concatenate([strength_G[group_R][:, None], mixed_RF, chance_RF, rare_RF], axis=1)
    share_F, _ = explained_share(sparse(f_RF), group_R, f_RF.shape[1])
    assert share_F[0] == pytest.approx(1, abs=1e-12)
    assert share_F[1:41].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(share_F[41:81].mean()) < 0.01, "the plain ratio is 0.4 here"
    assert abs(share_F[81:].mean()) < 0.01


def test_induction_scores_by_hand() -> None:
    values = np.array(
        [
            # first, second, fresh
            [0.0, 2.0, 0.0],  # only on copies
            [1.0, 3.0, 0.5],  # three times as much
            [1.0, 1.0, 1.0],
            [0.0, 2.0, 2.0],  # late positions, repeated or not
            [2.0, 0.0, 0.0],
            [0.0, 0.0, 0.0],
        ]
    )
    copies = Copies(*values.T, np.ones(6, np.int64), 4)
    assert induction_scores(copies).tolist() == [1, 0.5, 0, 0, -1, 0]


def test_rules_by_hand() -> None:
    rows = [
        ("current-token", 0.5, 0.2, 1.0, 99, 16),
        ("current-token", 0.9, 0.8, 0.0, 0, 1),
        ("previous-token", 0.6, 0.8, 0.0, 0, 2),
        ("induction", 0.49, 0.49, 0.5, 16, 1),
        ("context-sensitive", 0.49, 0.0, 1.0, 15, 8),
        ("context-sensitive", np.nan, np.nan, 0.0, 0, 8),
        ("other", 0.49, 0.49, 0.49, 99, 7.5),
        ("other", 0.0, 0.0, 0.0, 0, np.nan),
    ]
    columns = ["type", "current_token_share", "previous_token_share", "induction_score", "copy_firings"]
    table = pd.DataFrame(rows, columns=[*columns, "context_needed"])
    assert feature_types(table, SETTINGS).tolist() == table["type"].tolist()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the hand-made model, over random text in which `RARE` never stands but in the first two contexts."""
    folder = tmp_path_factory.mktemp("made")
    tokens = np.random.default_rng(0).integers(1, RARE, (80, CONTEXT_LENGTH))
    tokens[:, 0] = BOS
    tokens[0, 10], tokens[1, 20] = RARE, RARE
    run = hand_made.make_study(folder, tokens)
    features = folder / "features/crosscoder/run"
    features.mkdir(parents=True)
    tokenizer = folder / "tokenizer/tokenizer.json"
    settings = FeatureSettings(samples=6)
    write_features(
        settings, run, folder / "activations", [SHARD], folder / "tokens/heldout.h5", tokenizer, features, None
    )
    return folder


def write(made: Path, out: Path, **settings: object) -> pd.DataFrame:
    write_feature_types(
        FeatureTypeSettings(**settings),
        made / "dictionaries/crosscoder/run",
        made / "features/crosscoder/run",
        made / "models",
        made / "activations",
        [SHARD],
        made / "tokens/heldout.h5",
        out,
        None,
    )
    return pq.read_table(out).to_pandas().set_index("feature")


def test_features_of_a_model_made_by_hand_have_their_types(made: Path, tmp_path: Path) -> None:
    table = write(made, tmp_path / "feature_types.parquet", firings=20)
    types = {
        CURRENT: "current-token",
        PREVIOUS: "previous-token",
        INDUCTION: "induction",
        POSITION: "context-sensitive",
    }
    assert table["type"].loc[list(types)].to_dict() == types
    assert NOISE not in table.index, "it never fires"
    assert table.loc[CURRENT, "current_token_share"] == pytest.approx(1, abs=1e-4)
    assert table.loc[CURRENT, "context_needed"] == 1
    assert table.loc[PREVIOUS, "previous_token_share"] == pytest.approx(1, abs=1e-4)
    assert table.loc[PREVIOUS, "context_needed"] == 2
    assert table.loc[INDUCTION, "induction_score"] > 0.99
    assert table.loc[POSITION, "second_copy"] > table.loc[POSITION, "first_copy"] + 0.1, "copies come later"
    assert abs(table.loc[POSITION, "induction_score"]) < 1e-3, "at the same positions, fresh tokens do the same"
    assert table.loc[POSITION, "context_needed"] == CONTEXT_LENGTH - 1
    rows = 80 * (CONTEXT_LENGTH - 1)
    assert set(table["current_token_rows"]) == {rows}
    assert set(table["previous_token_rows"]) == {rows}, "of a row at position 1, BOS is the previous token"
    assert set(table["context_samples"]) == {6}
    assert table.loc[CURRENT, "copy_positions"] == SETTINGS.sequences * 4


def test_context_is_exact_for_a_feature_of_one_token(made: Path) -> None:
    """`RARE` is that far back, so that contexts shorter than this are silent and all longer ones are stronger."""
    crosscoder, contexts = (
        load_dictionary(made / "dictionaries/crosscoder/run"),
        read_tokens(made / "tokens/heldout.h5"),
    )
    checkpoints = Checkpoints(made / "models", [site.checkpoint for site in SITES])
    position = np.array([10, 11, 12, 14, 18, 23, 20, 21])
    context = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    full = 1 / (position + 1.0)
    samples = Samples(np.full(8, COUNT), context, position, full)
    needed = context_needed(crosscoder, checkpoints, contexts, samples, 0.9)
    assert needed.tolist() == [1, 2, 4, 8, 16, 16, 1, 2]
    unreachable = samples._replace(activation=full * 1000)
    assert context_needed(crosscoder, checkpoints, contexts, unreachable, 0.9).tolist() == position.tolist()


def test_copies_follow_distinct_tokens(made: Path) -> None:
    contexts = read_tokens(made / "tokens/heldout.h5")
    copies, controls = random_copies(contexts, FeatureTypeSettings(sequences=7))
    assert copies.shape == controls.shape == (7, 11)
    assert (copies[:, 1:6] == copies[:, 6:]).all()
    assert (controls[:, 6:] == copies[:, 6:]).all()
    assert all(len({*row[1:]}) == 10 for row in controls)
    assert BOS not in copies[:, 1:]
    assert len({tuple(row) for row in copies}) == 7
    again, _ = random_copies(contexts, FeatureTypeSettings(sequences=3))
    assert (again == copies[:3]).all(), "a sequence does not depend on how many there are"
    crosscoder = load_dictionary(made / "dictionaries/crosscoder/run")
    checkpoints = Checkpoints(made / "models", [site.checkpoint for site in SITES])
    found = read_copies(crosscoder, checkpoints, (copies, controls), np.array([POSITION, INDUCTION]))
    # relu(1 - 7.5 / (t + 1)) over positions 7 to 10, and 1 after every token that was followed by another one.
    assert found.second == pytest.approx([np.mean([1 - 7.5 / (t + 1) for t in range(7, 11)]), 0.99], abs=1e-3)
    assert found.firings.tolist() == [7 * 4, 7 * 4]
    assert found.positions == 28


def test_sample_has_equal_numbers_of_classes(made: Path) -> None:
    file = made / "features/crosscoder/run/features.parquet"
    chosen = choose(file, FeatureTypeSettings(features=2, firings=20))
    assert sorted(chosen["class"]) == ["emergent", "initialisation"]
    table = pq.read_table(file).to_pandas()
    often = table[table["density"] * 80 * 23 >= 20]
    assert chosen["eligible"].tolist() == [int((often["class"] == name).sum()) for name in chosen["class"]]
    with pytest.raises(UserError, match=r"no feature fires on 9,999 heldout rows or more"):
        choose(file, FeatureTypeSettings(firings=9999))


def test_command_writes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    write(made, tmp_path / "here.parquet", firings=20)
    arguments = {
        "settings": json.dumps({"firings": 20}),
        "dictionary": made / "dictionaries/crosscoder/run",
        "features": made / "features/crosscoder/run",
        "models": made / "models",
        "activations": made / "activations",
        "shards": SHARD,
        "tokens": made / "tokens/heldout.h5",
        "out": tmp_path / "there.parquet",
    }
    done = script("feature_types.py", *(part for name, value in arguments.items() for part in (f"--{name}", value)))
    assert done.returncode == 0, done.stderr
    here, there = (pq.read_table(tmp_path / f"{place}.parquet") for place in ("here", "there"))
    assert here.equals(there)
    assert json.loads(there.schema.metadata[b"settings"])["firings"] == 20


def test_samples_that_are_cut_are_the_strongest(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"feature": [0, 0, 0, 0, 1, 2], "rank": [0, 1, 0, 1, 0, 0], "context": range(6), "position": [3, 4, 5, 6, 7, 0]}
    ).assign(quantile=pd.array([None, None, 0, 3, None, None], dtype="Int8"), activation=[9.0, 8.0, 1.0, 7.0, 2.0, 1.0])
    table.to_parquet(tmp_path / "samples.parquet")
    found = read_samples(tmp_path / "samples.parquet", np.array([0, 2]), 2)
    assert found.context.tolist() == [0, 1], "no sample of a band, of another feature or at position 0"


def test_mistakes_are_one_line(made: Path, tmp_path: Path) -> None:
    for name in ("features", "samples"):
        folder = tmp_path / name
        folder.mkdir()
        other = {"features": "samples", "samples": "features"}[name]
        (folder / f"{other}.parquet").symlink_to(made / f"features/crosscoder/run/{other}.parquet")
        with pytest.raises(UserError, match=rf"{name}.parquet: no such file; run the rule 'features'"):
            write_feature_types(
                FeatureTypeSettings(firings=20), made / "dictionaries/crosscoder/run", folder, made / "models",
                made / "activations", [SHARD], made / "tokens/heldout.h5", tmp_path / "out.parquet", None,
            )  # fmt: skip
