"""Windows of text for a language model: true ones, silent ones and marks, against activations read in full."""

import json
from collections import Counter
from itertools import product
from pathlib import Path

import hand_made
import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_study import script
from hand_made import BOS, CONTEXT_LENGTH, CURRENT, INDUCTION, NOISE, POSITION, PREVIOUS, RARE
from judge import knowing, serving

from ontogeny.activations.rows import read_rows
from ontogeny.config.evaluation import FeatureSettings, FeatureTypeSettings
from ontogeny.config.interpretation import InterpretationSettings, WindowSettings
from ontogeny.errors import UserError
from ontogeny.evaluation.encoding import encoded_blocks, load_dictionary
from ontogeny.evaluation.features import write_features
from ontogeny.evaluation.token_shares import RowFirings
from ontogeny.interpretation.marking import marks, run_lengths, wrong_marks
from ontogeny.interpretation.ratings import write_interpretations
from ontogeny.interpretation.window_table import write_windows
from ontogeny.interpretation.windows import Chosen, choose_windows, cut_windows, strongest_firings

SHARD = "heldout-00000"
TESTS = WindowSettings(window=8, examples=4, tests=12, bands=3)


def test_contexts_are_cut_into_equal_windows() -> None:
    length_C = np.array([10, 4, 23, 2])
    context_R = np.concatenate([np.full(9, 0), np.full(3, 1), np.full(22, 2), [3]])
    position_R = np.concatenate([np.arange(1, length) for length in length_C])
    order = np.random.default_rng(0).permutation(len(context_R))
    cut = cut_windows(context_R[order], position_R[order], length_C, 4)
    # 9, 3, 22 and 1 positions after the first: 2, 1, 6 (5.5 is nearer to an even number) and 1 windows.
    assert list(zip(cut.context.tolist(), cut.start.tolist(), cut.stop.tolist(), strict=True)) == [
        (0, 1, 5), (0, 5, 10), (1, 1, 4), (2, 1, 4), (2, 4, 8), (2, 8, 12), (2, 12, 15), (2, 15, 19), (2, 19, 23), (3, 1, 2),
    ]  # fmt: skip
    for row, window in enumerate(cut.window_R):
        assert cut.context[window] == context_R[order][row]
        assert cut.start[window] <= position_R[order][row] < cut.stop[window]


def test_windows_that_were_read_in_part_are_left_out() -> None:
    cut = cut_windows(np.array([0, 0, 0, 0, 1]), np.array([1, 2, 3, 4, 1]), np.array([9, 9, 9]), 4)
    assert cut.context.tolist() == [0]
    assert cut.window_R.tolist() == [0, 0, 0, 0, -1]


def test_windows_go_by_their_strongest_token() -> None:
    cut = cut_windows(np.zeros(12, int), np.arange(1, 13), np.array([13]), 4)
    firings = RowFirings(
        np.array([0, 1, 5, 9, 11, 2]), np.array([0, 0, 0, 0, 0, 2]), np.array([1.0, 3.0, 2.0, 2.0, 0.5, 9.0])
    )
    found = [(window.tolist(), value.tolist()) for window, value in strongest_firings(firings, cut, 3)]
    assert found == [([0, 1, 2], [3.0, 2.0, 2.0]), ([], []), ([0], [9.0])]


def test_windows_asked_about_are_spread_over_bands_and_apart_from_examples() -> None:
    contexts = 60
    cut = cut_windows(np.repeat(np.arange(contexts), 8), np.tile(np.arange(1, 9), contexts), np.full(contexts, 9), 4)
    fired_K = np.random.default_rng(1).permutation(2 * contexts)[:65]
    chosen = choose_windows(7, fired_K, cut, WindowSettings(window=4, examples=5, tests=24, bands=4))
    by_role = {role: [own for own in chosen if own.role == role] for role in ("example", "detection", "fuzzing")}
    examples = [own.window for own in by_role["example"]]
    assert [own.number for own in by_role["example"]] == list(range(5))
    assert examples == sorted(examples, key=fired_K.tolist().index), "strongest first"
    assert len({cut.context[window] for window in examples}) == 5
    strength = {int(window): place for place, window in enumerate(fired_K)}
    rest = [int(window) for window in fired_K[::-1] if window not in examples]
    for role in ("detection", "fuzzing"):
        own = sorted(by_role[role], key=lambda window: window.number)
        assert [window.number for window in own] == list(range(24))
        true = [window for window in own if window.truth]
        assert len(true) == 12
        assert not {window.window for window in own} & set(examples)
        assert len({window.window for window in own}) == 24
        assert [sum(window.band == band for window in true) for band in range(4)] == [3] * 4
        for window in true:
            assert rest.index(window.window) // 15 == window.band
        assert [window.truth for window in own] != sorted((window.truth for window in own), reverse=True)
    silent = [window.window for window in by_role["detection"] if not window.truth]
    assert not set(silent) & set(strength)
    wrong = [window for window in by_role["fuzzing"] if not window.truth]
    assert {window.window for window in wrong} <= set(strength), "wrong marks are in windows where it fires as well"


def test_a_feature_that_fires_in_few_windows_keeps_some_to_be_asked_about() -> None:
    cut = cut_windows(np.repeat(np.arange(9), 8), np.tile(np.arange(1, 9), 9), np.full(9, 9), 8)
    sizes = []
    for fired in range(1, 7):
        chosen = choose_windows(0, np.arange(fired), cut, TESTS)
        roles = [(own.role, own.truth) for own in chosen]
        sizes.append(
            [
                roles.count(kind)
                for kind in (("example", None), ("detection", True), ("fuzzing", True), ("fuzzing", False))
            ]
        )
    assert sizes == [[1, 0, 0, 0], [1, 1, 0, 0], [2, 1, 0, 0], [2, 2, 1, 1], [3, 2, 1, 1], [3, 3, 1, 1]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the hand-made model, whose tokens all have a text of their own."""
    folder = tmp_path_factory.mktemp("made")
    tokens = np.random.default_rng(0).integers(1, RARE, (80, CONTEXT_LENGTH))
    for position in range(1, CONTEXT_LENGTH):  # no token twice in a row, so that marks do not join
        tokens[:, position] = np.where(
            tokens[:, position] == tokens[:, position - 1], tokens[:, position] % 10 + 1, tokens[:, position]
        )
    tokens[:, 0] = BOS
    tokens[0, 10], tokens[1, 20] = RARE, RARE
    run = hand_made.make_study(folder, tokens)
    paths = (folder / "activations", [SHARD], folder / "tokens/heldout.h5", folder / "tokenizer/tokenizer.json")
    write_features(FeatureSettings(), run, *paths, folder / "features", None)
    return folder


def write(made: Path, out: Path, settings: WindowSettings = TESTS, **choice: int) -> None:
    write_windows(
        settings, FeatureTypeSettings(**{"firings": 20, **choice}), made / "dictionaries/crosscoder/run",
        made / "features/features.parquet", made / "activations", [SHARD], made / "tokens/heldout.h5",
        made / "tokenizer/tokenizer.json", out, None,
    )  # fmt: skip


def test_windows_say_the_truth(made: Path, tmp_path: Path) -> None:
    write(made, tmp_path / "windows.parquet")
    table = pq.read_table(tmp_path / "windows.parquet").to_pandas()
    rows = read_rows(made / f"activations/rows/{SHARD}.h5")
    f_CTL = np.zeros((80, CONTEXT_LENGTH, 6))
    for block in encoded_blocks(load_dictionary(made / "dictionaries/crosscoder/run"), made / "activations", [SHARD]):
        own = slice(block.start, block.start + len(block.f))
        f_CTL[rows.context[own], rows.position[own]] = block.f.numpy()
    assert {CURRENT, PREVIOUS, INDUCTION, POSITION} <= set(table["feature"])
    assert NOISE not in set(table["feature"])
    for row in table.itertuples():
        f_T = f_CTL[row.context, row.start : row.start + len(row.texts), row.feature]
        assert row.activation == pytest.approx(f_T.max(), rel=1e-6)
        right_T = (f_T > 0) & (f_T >= 0.5 * f_T.max())
        if row.role == "detection":
            assert not any(row.marks)
            assert row.truth == bool(f_T.any())
        elif row.role == "example" or row.truth:
            assert row.marks.tolist() == right_T.tolist()
        else:
            assert not (row.marks & (f_T > 0)).any()
            assert sorted(run_lengths(row.marks)) == sorted(run_lengths(right_T)) != []
    own = table[(table["feature"] == CURRENT) & (table["role"] == "example")].iloc[0]
    assert len(set(np.array(own.texts)[own.marks])) == 1, "the one token of which it is a feature"


def bits(text: str) -> np.ndarray:
    return np.array([sign == "x" for sign in text])


def test_wrong_marks_have_the_shape_of_right_ones() -> None:
    right_T, silent_T = bits("xx.x........"), bits("....xxxxxxxx")
    found: Counter[str] = Counter()
    for draw in range(3000):
        wrong_T = wrong_marks(right_T, silent_T, np.random.default_rng(draw))
        assert not wrong_T[~silent_T].any()
        assert sorted(run_lengths(wrong_T)) == [1, 2]
        found["".join("x" if mark else "." for mark in wrong_T)] += 1
    # A run of two and one of one in eight tokens with one between them: 5 * 6 / 2 = 15 ways in either order.
    assert len(found) == 30
    assert max(found.values()) < 150, "100 each, with a deviation of 10"


def test_marks_that_have_no_room_are_not_made() -> None:
    random = np.random.default_rng(0)
    assert not wrong_marks(bits("xxx....."), bits("...xx.xx"), random).any(), "no three in a row"
    assert not wrong_marks(bits("x.x....."), bits("......xx"), random).any(), "runs would touch"
    assert wrong_marks(bits("x.xx...."), bits("....xx.x"), random).tolist() == bits("....xx.x").tolist()
    for truth, room in product((True, False), (True, False)):
        activation_T = np.array([0.4, 2.0, 1.0, 0.0, 0.0] if room else [0.4, 2.0, 1.0, 0.4, 0.0])
        found_T = marks(activation_T, Chosen("fuzzing", 0, 3, truth, 0), 0, 5)
        expected = {True: ".xx..", False: "...xx"}[truth] if room else "....."
        assert found_T.tolist() == bits(expected).tolist()


def test_fuzzing_needs_a_token_on_which_a_feature_is_silent(made: Path, tmp_path: Path) -> None:
    """From position 7 on, the feature of the position fires on every token."""
    write(made, tmp_path / "windows.parquet")
    table = pq.read_table(tmp_path / "windows.parquet").to_pandas()
    own = table[(table["feature"] == POSITION) & (table["role"] == "fuzzing")]
    assert set(own["truth"]) == {True, False}
    assert set(own["start"]) == {1}, "of marks that are right as well"


def test_a_planted_token_is_explained_found_and_marked(made: Path, tmp_path: Path) -> None:
    """Through the whole chain: a judge that looks for the marked token is right of its feature, always."""
    write(made, tmp_path / "windows.parquet")
    with serving(knowing) as judge:
        settings = InterpretationSettings(endpoint=judge.address, model="judge")
        write_interpretations(
            settings, tmp_path / "windows.parquet", tmp_path / "cache", tmp_path / "out.parquet", None
        )
    table = pq.read_table(tmp_path / "out.parquet").to_pandas().set_index("feature")
    own = table.loc[CURRENT]
    assert own[["complexity", "detection", "fuzzing"]].tolist() == [1, 1.0, 1.0]
    counts = ("detection_positives", "detection_negatives", "fuzzing_positives", "fuzzing_negatives")
    assert [own[name] for name in counts] == [6] * 4
    assert table.loc[PREVIOUS, "complexity"] > 1, "other tokens follow the one of which it is a feature"
    assert table.loc[PREVIOUS, "detection"] < 1


def test_the_choice_of_fewer_features_is_part_of_that_of_more(made: Path, tmp_path: Path) -> None:
    chosen = []
    for number in (2, 4):
        write(made, tmp_path / "windows.parquet", features=number)
        chosen.append(set(pq.read_table(tmp_path / "windows.parquet")["feature"].to_pylist()))
    assert len(chosen[0]) == 2
    assert chosen[0] < chosen[1]


def test_the_command_writes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    write(made, tmp_path / "here.parquet")
    arguments = {
        "settings": TESTS.model_dump_json(),
        "choice": json.dumps({"firings": 20}),
        "dictionary": made / "dictionaries/crosscoder/run",
        "features": made / "features/features.parquet",
        "activations": made / "activations",
        "shards": SHARD,
        "tokens": made / "tokens/heldout.h5",
        "tokenizer": made / "tokenizer/tokenizer.json",
        "out": tmp_path / "there.parquet",
    }
    done = script("windows.py", *(part for name, value in arguments.items() for part in (f"--{name}", value)))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    labels = pq.read_schema(tmp_path / "there.parquet").metadata
    assert (labels[b"run"], labels[b"rows"]) == (b"run", b"1840")
    assert json.loads(labels[b"settings"]) == TESTS.model_dump()


def test_features_that_hardly_fire_are_refused_in_one_line(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no feature fires on 9,999 heldout rows or more"):
        write(made, tmp_path / "windows.parquet", firings=9999)
