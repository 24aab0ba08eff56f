"""Rows meet every usable position once, by its number and not its token, and stay what they are in a longer study."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ontogeny.activations.rows import choose_rows, read_rows, rows_hash, write_rows
from ontogeny.config.activations import RowsSettings
from ontogeny.errors import UserError
from ontogeny.tokens import Contexts, write_tokens

SCRIPTS = Path(__file__).parents[1] / "scripts"
LENGTHS = np.random.default_rng(0).integers(1, 33, 200).astype(np.int32)
"""Contexts of 1 to 32 positions; one of 1 holds BOS alone."""

Pairs = list[tuple[int, int]]


def settings(number: int = 0, rows: int = 500, **changed: object) -> RowsSettings:
    base = {"seed": 0, "split": "train", "rows_per_shard": 500, "keep_first_position": False}
    return RowsSettings.model_validate({**base, "number": number, "rows": rows, **changed})


def chosen(number: int = 0, rows: int = 500, **changed: object) -> Pairs:
    context, position = choose_rows(settings(number, rows, **changed), LENGTHS)
    return list(zip(context.tolist(), position.tolist(), strict=True))


def every_shard(first: int, **changed: object) -> Pairs:
    total = int(np.maximum(LENGTHS - first, 0).sum())
    return [
        pair
        for number in range(-(-total // 500))
        for pair in chosen(number, min(500, total - 500 * number), keep_first_position=first == 0, **changed)
    ]


@pytest.mark.parametrize("first", [0, 1])
def test_p1_shards_together_meet_every_usable_position_exactly_once(first: int) -> None:
    usable = [(context, position) for context, length in enumerate(LENGTHS) for position in range(first, length)]
    assert sorted(every_shard(first)) == usable


def test_p7_the_first_position_and_the_padding_are_never_read() -> None:
    context, position = np.array(every_shard(1)).T
    assert position.min() == 1
    assert (position < LENGTHS[context]).all()


def test_more_rows_are_additional_shards_and_change_no_full_one() -> None:
    """What a shard is chosen from is (seed, split, number, rows_per_shard) and the tokens: no total."""
    assert set(RowsSettings.model_fields) == {
        "seed",
        "split",
        "number",
        "rows_per_shard",
        "rows",
        "keep_first_position",
    }
    partial = chosen(3, 200)
    assert set(partial) < set(chosen(3, 500))
    assert not set(partial) & {pair for number in (0, 1, 2, 4) for pair in chosen(number)}


def test_a_shard_mixes_many_contexts() -> None:
    context, _ = np.array(chosen(0)).T
    assert len(np.unique(context)) > 20
    assert len(np.unique(context[:64])) > 15
    assert chosen(0) != sorted(chosen(0))


def test_p31_the_seed_decides_and_equal_seeds_agree() -> None:
    assert chosen(1) == chosen(1)
    assert set(chosen(1)) != set(chosen(1, seed=1))
    assert set(chosen(0)) != set(chosen(0, split="heldout"))


def test_too_few_positions_name_the_key_and_the_count() -> None:
    total = int((LENGTHS - 1).sum())
    with pytest.raises(
        UserError, match=re.escape("activations.heldout_rows: 3500 rows are asked for, but the heldout")
    ):
        chosen(6, split="heldout")
    with pytest.raises(UserError, match=re.escape(f"has {total} usable positions; lower it to at most {total}")):
        chosen(6, split="heldout")


def test_a_shard_that_would_overlap_the_next_is_refused() -> None:
    with pytest.raises(UserError, match="a shard of 501 rows exceeds rows_per_shard 500"):
        chosen(0, 501)


def token_file(path: Path, bos_id: int = 0) -> Contexts:
    """Write contexts of 32 positions with BOS first, and BOS again, like any other token, within them."""
    tokens = np.random.default_rng(1).integers(0, 50, (200, 32)).astype(np.uint16)
    tokens[:, 0] = bos_id
    tokens[::3, 5] = bos_id
    tokens[np.arange(32) >= LENGTHS[:, None]] = 0
    contexts = Contexts(tokens, LENGTHS, (np.arange(200) // 7).astype(np.int32))
    attributes: dict[str, str | int] = {"bos_id": bos_id, "vocab_size": 50, "context_length": 32}
    write_tokens(path, [contexts], {**attributes, "split": "train", "tokenizer_hash": "f00d", "provenance": "{}"})
    return contexts


def test_p5_tokens_with_id_0_are_rows_like_any_other(tmp_path: Path) -> None:
    contexts = token_file(tmp_path / "train.h5", bos_id=0)
    total = int((LENGTHS - 1).sum())
    everything = settings(0, total, rows_per_shard=total)
    write_rows(everything, tmp_path / "train.h5", tmp_path / "train-00000.h5", None)
    rows = read_rows(tmp_path / "train-00000.h5")
    inside = (np.arange(32) >= 1) & (np.arange(32) < LENGTHS[:, None])
    assert (rows.token == 0).sum() == (contexts.tokens[inside] == 0).sum() > 60


def test_a_rows_file_says_which_token_of_which_document_every_row_is(tmp_path: Path) -> None:
    contexts = token_file(tmp_path / "train.h5", bos_id=7)
    counts = write_rows(settings(1), tmp_path / "train.h5", tmp_path / "train-00001.h5", None)
    rows = read_rows(tmp_path / "train-00001.h5")
    assert list(zip(rows.context.tolist(), rows.position.tolist(), strict=True)) == chosen(1)
    assert np.array_equal(rows.token, contexts.tokens[rows.context, rows.position])
    assert np.array_equal(rows.document, contexts.document[rows.context])
    assert {column.dtype for column in rows[:4]} == {np.dtype(np.int32)}
    assert rows.hash == rows_hash(rows.context, rows.position)
    assert counts == {"rows": 500, "contexts": len(set(rows.context)), "documents": len(set(rows.document))}


def test_the_hash_of_rows_depends_on_each_and_on_their_order() -> None:
    context, position = choose_rows(settings(), LENGTHS)
    hashes = {rows_hash(context, position), rows_hash(position, context), rows_hash(context[::-1], position[::-1])}
    changed = position.copy()
    changed[-1] += 1
    assert len(hashes | {rows_hash(context, changed)}) == 4


def test_equal_settings_give_equal_files(tmp_path: Path) -> None:
    token_file(tmp_path / "train.h5")
    for name in ("one.h5", "two.h5"):
        write_rows(settings(), tmp_path / "train.h5", tmp_path / name, None)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


@pytest.mark.parametrize("column", ["context", "position", "document", "token"])
def test_a_rows_file_with_a_flipped_byte_is_refused(tmp_path: Path, column: str) -> None:
    token_file(tmp_path / "train.h5")
    path = tmp_path / "train-00000.h5"
    write_rows(settings(), tmp_path / "train.h5", path, None)
    data = getattr(read_rows(path), column).tobytes()
    whole = bytearray(path.read_bytes())
    whole[whole.index(data) + 1001] ^= 4
    path.write_bytes(whole)
    with pytest.raises(UserError, match=re.escape(f"{path}: its bytes have changed")):
        read_rows(path)


@pytest.mark.parametrize("name", ["rows_hash", "tokens_hash", "crc32"])
def test_a_rows_file_that_lacks_what_it_is_checked_by_is_refused(tmp_path: Path, name: str) -> None:
    token_file(tmp_path / "train.h5")
    path = tmp_path / "train-00000.h5"
    write_rows(settings(), tmp_path / "train.h5", path, None)
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    with pytest.raises(UserError, match=re.escape(f"{path}: attribute '{name}' is missing")):
        read_rows(path)


def command(folder: Path, tokens: Path, chosen_settings: RowsSettings) -> subprocess.CompletedProcess[str]:
    line: list[str | Path] = [
        sys.executable,
        SCRIPTS / "rows.py",
        "--settings",
        chosen_settings.model_dump_json(),
        "--tokens",
        tokens,
    ]
    line += ["--out", folder / "train-00000.h5"]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})


def test_the_command_writes_rows_and_says_what_they_cost(tmp_path: Path) -> None:
    token_file(tmp_path / "train.h5")
    done = command(tmp_path, tmp_path / "train.h5", settings())
    assert (done.returncode, done.stdout) == (0, "")
    assert '"rows": 500' in done.stderr
    assert len(read_rows(tmp_path / "train-00000.h5").context) == 500


def test_the_command_gives_one_line_for_a_mistake(tmp_path: Path) -> None:
    done = command(tmp_path, tmp_path / "train.h5", settings())
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {tmp_path}/train.h5: there is no such file; .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []
