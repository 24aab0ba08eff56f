"""Shards hold what the model computes at each row, at every hook, in stored order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from ontogeny.activations.harvest import batches, harvest
from ontogeny.activations.rows import Rows, read_rows, write_rows
from ontogeny.activations.store import Floats, open_aligned, open_shard
from ontogeny.config.activations import HarvestSettings, RowsSettings
from ontogeny.errors import UserError
from ontogeny.files import crc32, write_json
from ontogeny.sites import Site
from ontogeny.tokens import Contexts, read_tokens, write_tokens

SCRIPTS = Path(__file__).parents[1] / "scripts"
LENGTHS = np.random.default_rng(0).integers(1, 25, 60).astype(np.int32)
VOCABULARY = 50
HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make tokens, rows and two checkpoints of a random GPT-NeoX, laid out as a results root."""
    root = tmp_path_factory.mktemp("study")
    write_contexts(root / "tokens" / "train.h5")
    settings = {"seed": 0, "split": "train", "number": 0, "rows_per_shard": 400, "keep_first_position": False}
    for name, rows in (("train-00000", 400), ("train-00001", 30)):
        chosen = RowsSettings.model_validate({**settings, "number": int(name[-1]), "rows": rows})
        write_rows(chosen, root / "tokens" / "train.h5", root / "activations" / "rows" / f"{name}.h5", None)
    for step in (0, 8):
        write_checkpoint(root / "models" / "neox" / f"step{step}", step)
    return root


def write_contexts(path: Path, vocab_size: int = VOCABULARY, length: int = 24, seed: int = 1) -> None:
    """Write contexts with BOS 0 first and often within, padded with 0."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (60, length)).astype(np.uint16)
    tokens[:, 0] = 0
    tokens[::4, 3] = 0
    tokens[np.arange(length) >= LENGTHS[:, None]] = 0
    attributes: dict[str, str | int] = {"bos_id": 0, "vocab_size": vocab_size, "context_length": length}
    contexts = Contexts(tokens, LENGTHS, np.arange(60, dtype=np.int32))
    write_tokens(path, [contexts], {**attributes, "split": "train", "tokenizer_hash": "f00d", "provenance": "{}"})


def write_checkpoint(folder: Path, step: int) -> None:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(step)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, intermediate_size=64, max_position_embeddings=24))
    model.save_pretrained(folder)
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="t0", eos_token="t0").save_pretrained(folder)
    weights = {"model.safetensors": crc32(folder / "model.safetensors")}
    write_json(folder / "checkpoint.json", {"model": "neox", "step": step, "weights_crc32": weights})


def read(study: Path, out: Path, step: int = 8, shard: str = "train-00000", **changed: object) -> dict[str, float]:
    """Harvest one shard with the arguments of the command."""
    arguments: dict[str, object] = {"tokens": study / "tokens" / "train.h5", "hooks": HOOKS, **changed}
    settings = {key: arguments.pop(key) for key in ("dtype", "precision", "batch_contexts") if key in arguments}
    return harvest(
        HarvestSettings.model_validate({"batch_contexts": 7, **settings}),
        study / "models" / "neox" / f"step{step}" / "checkpoint.json",
        Path(str(arguments["tokens"])),
        study / "activations" / "rows" / f"{shard}.h5",
        [str(hook) for hook in arguments["hooks"]],  # type: ignore[attr-defined]
        out / "neox" / f"step{step}",
        None,
    )


def expected(study: Path, rows: Rows, step: int = 8) -> list[NDArray[np.float32]]:
    """Run every row's context alone through the plain model: the hidden states after each block at the row."""
    model = AutoModelForCausalLM.from_pretrained(study / "models" / "neox" / f"step{step}").eval()
    tokens = contexts_of(study)
    found: list[list[Floats]] = [[], []]
    for context, position in zip(rows.context, rows.position, strict=True):
        with torch.no_grad():
            inputs = torch.from_numpy(tokens[context, : LENGTHS[context]].astype(np.int64))[None]
            states = model(inputs, output_hidden_states=True).hidden_states
        for layer in (0, 1):
            found[layer].append(states[layer + 1][0, position].numpy())
    return [np.stack(layer) for layer in found]


def contexts_of(study: Path) -> NDArray[np.unsignedinteger]:
    return read_tokens(study / "tokens" / "train.h5").tokens


def test_p24_p25_every_row_holds_the_hidden_state_of_its_own_position(study: Path, tmp_path: Path) -> None:
    read(study, tmp_path, shard="train-00001")
    rows = read_rows(study / "activations" / "rows" / "train-00001.h5")
    for hook, expected_BD in zip(HOOKS, expected(study, rows), strict=True):
        shard = open_shard(tmp_path / "neox" / "step8" / hook / "train-00001.h5", verify=True)
        assert (shard.site, shard.rows, shard.d_model) == (Site("neox", 8, hook), 30, 32)
        np.testing.assert_allclose(shard.read(0, 30), expected_BD, rtol=6e-4, atol=1e-5)
        distance = np.linalg.norm(shard.read(0, 30)[:, None] - expected_BD[None], axis=2)
        assert (distance.argmin(axis=1) == np.arange(30)).all()


def test_p1_every_row_is_read_from_the_model_once(study: Path, tmp_path: Path) -> None:
    counts = read(study, tmp_path)
    rows = read_rows(study / "activations" / "rows" / "train-00000.h5")
    parts = list(batches(rows, 7))
    assert sorted(np.concatenate([batch.row for batch in parts])) == list(range(400))
    for batch in parts:
        assert np.array_equal(batch.contexts[batch.context], rows.context[batch.row])
        assert np.array_equal(batch.position, rows.position[batch.row])
        assert batch.length == batch.position.max() + 1
    assert counts == {"rows": 400, "tokens": sum(len(batch.contexts) * batch.length for batch in parts)}
    assert counts["tokens"] < len(set(rows.context)) * 24 * 0.8


def test_batches_do_not_change_what_is_read(study: Path, tmp_path: Path) -> None:
    for size in (1, 7, 1000):
        read(study, tmp_path / str(size), batch_contexts=size)
    found = [open_shard(tmp_path / str(size) / "neox" / "step8" / HOOKS[1] / "train-00000.h5") for size in (1, 7, 1000)]
    for shard in found[1:]:
        np.testing.assert_allclose(shard.read(0, 400), found[0].read(0, 400), atol=2e-3, rtol=2e-3)


def test_p31_the_same_command_gives_the_same_bytes(study: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        read(study, tmp_path / name)
    for hook in HOOKS:
        one, two = (tmp_path / name / "neox" / "step8" / hook / "train-00000.h5" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_p2_row_r_is_the_same_position_at_every_checkpoint_and_hook(study: Path, tmp_path: Path) -> None:
    for step in (0, 8):
        read(study, tmp_path, step)
    sites = [Site("neox", step, hook) for step in (0, 8) for hook in HOOKS]
    aligned = open_aligned(tmp_path, sites, "train-00000", verify=True)
    assert aligned.rows_hash == read_rows(study / "activations" / "rows" / "train-00000.h5").hash
    assert aligned.read(0, 400).shape == (400, 4, 32)


def test_p2_rows_of_other_positions_do_not_align(study: Path, tmp_path: Path) -> None:
    read(study, tmp_path, 0)
    read(study, tmp_path, 8, shard="train-00001")
    folder = tmp_path / "neox" / "step8" / HOOKS[0]
    (folder / "train-00001.h5").rename(folder / "train-00000.h5")
    with pytest.raises(UserError, match=r"step8/.*train-00000.h5: rows is 30, but 400 in .*step0/"):
        open_aligned(tmp_path, [Site("neox", step, HOOKS[0]) for step in (0, 8)], "train-00000")


def test_p5_p7_positions_after_a_bos_within_a_context_are_read_and_the_first_is_not(study: Path) -> None:
    rows = read_rows(study / "activations" / "rows" / "train-00000.h5")
    tokens = contexts_of(study)
    assert rows.position.min() == 1
    assert (rows.position < LENGTHS[rows.context]).all()
    assert ((rows.position == 3) & (tokens[rows.context, 3] == 0)).sum() > 3


def test_int8_shards_are_close_to_float16_shards(study: Path, tmp_path: Path) -> None:
    for dtype in ("float16", "int8"):
        read(study, tmp_path / dtype, dtype=dtype)
    half_BD, quantised_BD = (
        open_shard(tmp_path / dtype / "neox" / "step8" / HOOKS[1] / "train-00000.h5", verify=True).read(0, 400)
        for dtype in ("float16", "int8")
    )
    error = ((half_BD - quantised_BD) ** 2).sum() / ((half_BD - half_BD.mean(0)) ** 2).sum()
    assert 0 < error < 1e-3


def test_lower_precision_of_the_model_shows_and_stays_close(study: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        read(study, tmp_path / precision, precision=precision)
    exact_BD, rough_BD = (
        open_shard(tmp_path / precision / "neox" / "step8" / HOOKS[1] / "train-00000.h5").read(0, 400)
        for precision in ("float32", "bfloat16")
    )
    error = ((exact_BD - rough_BD) ** 2).sum() / ((exact_BD - exact_BD.mean(0)) ** 2).sum()
    assert 1e-7 < error < 1e-2


def test_shards_say_which_weights_and_versions_made_them(study: Path, tmp_path: Path) -> None:
    read(study, tmp_path)
    made = open_shard(tmp_path / "neox" / "step8" / HOOKS[0] / "train-00000.h5").stored.attributes["provenance"]
    weights = study / "models" / "neox" / "step8" / "model.safetensors"
    assert json.loads(json.loads(str(made))["weights_crc32"]) == {"model.safetensors": crc32(weights)}
    assert "torch " in json.loads(str(made))["versions"]


def refused(study: Path, out: Path, **changed: Any) -> str:
    with pytest.raises(UserError) as error:
        read(study, out, **changed)
    assert not list(out.rglob("*.h5"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_p2_rows_chosen_from_other_tokens_are_refused(study: Path, tmp_path: Path) -> None:
    write_contexts(tmp_path / "other.h5", seed=2)
    line = refused(study, tmp_path / "out", tokens=tmp_path / "other.h5")
    assert re.search(r"rows/train-00000.h5: its rows were chosen from tokens \w+, but .*/other.h5 holds \w+;", line)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"vocab_size": 51}, "its model knows 50 tokens, but .* uses 51; set tokenizer"),
        ({"length": 25}, "its model knows 24 positions, but the contexts of .* have 25; lower tokens.context_length"),
    ],
)
def test_a_model_that_does_not_fit_the_tokens_is_refused(
    study: Path, tmp_path: Path, shape: dict[str, int], words: str
) -> None:
    write_contexts(tmp_path / "train.h5", **shape)
    settings = {"seed": 0, "split": "train", "number": 0, "rows_per_shard": 400, "keep_first_position": False}
    chosen = RowsSettings.model_validate({**settings, "rows": 400})
    write_rows(chosen, tmp_path / "train.h5", tmp_path / "activations" / "rows" / "train-00000.h5", None)
    (tmp_path / "models").symlink_to(study / "models")
    line = refused(tmp_path, tmp_path / "out", tokens=tmp_path / "train.h5")
    assert re.search(rf"step8/checkpoint.json: {words}", line)


def test_a_checkpoint_that_is_not_there_is_refused(study: Path, tmp_path: Path) -> None:
    line = refused(study, tmp_path, step=7)
    assert line.startswith(f"{study}/models/neox/step7/checkpoint.json: there is no such file;")


def test_an_unknown_hook_is_refused_with_the_nearest(study: Path, tmp_path: Path) -> None:
    line = refused(study, tmp_path, hooks=("blocks.1.hook_resid_pots",))
    assert "did you mean 'blocks.1.hook_resid_post'?" in line


def test_a_model_that_gives_nan_is_refused_by_site_and_row(study: Path, tmp_path: Path) -> None:
    broken = tmp_path / "study"
    (broken / "models" / "neox").mkdir(parents=True)
    (broken / "activations").symlink_to(study / "activations")
    (broken / "tokens").symlink_to(study / "tokens")
    folder = broken / "models" / "neox" / "step8"
    write_checkpoint(folder, 8)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.gpt_neox.layers[0].mlp.dense_4h_to_h.bias[5] = torch.nan
    model.save_pretrained(folder)
    line = refused(broken, tmp_path / "out")
    assert f"{HOOKS[0]} of neox/step8 is nan at row 0, channel 5" in line


def command(study: Path, out: Path, *hooks: str) -> subprocess.CompletedProcess[str]:
    line: list[str | Path] = [sys.executable, SCRIPTS / "activations.py", "--settings", '{"batch_contexts": 7}']
    line += ["--checkpoint", study / "models" / "neox" / "step8" / "checkpoint.json"]
    line += ["--tokens", study / "tokens" / "train.h5", "--rows", study / "activations" / "rows" / "train-00000.h5"]
    line += ["--hooks", *hooks, "--out", out, "--log", out / "log"]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})


def test_the_command_writes_a_shard_for_each_hook_and_says_what_it_cost(study: Path, tmp_path: Path) -> None:
    done = command(study, tmp_path, *HOOKS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = (tmp_path / "log").read_text()
    assert "400 of 400 rows" in log
    assert '"rows": 400' in log
    read(study, tmp_path / "again")
    for hook in HOOKS:
        again = tmp_path / "again" / "neox" / "step8" / hook / "train-00000.h5"
        assert (tmp_path / hook / "train-00000.h5").read_bytes() == again.read_bytes()


def test_the_command_gives_one_line_for_a_mistake(study: Path, tmp_path: Path) -> None:
    done = command(study, tmp_path, "blocks.7.hook_resid_post")
    assert done.returncode == 1
    assert re.fullmatch(r"error: hook 'blocks.7.hook_resid_post': .*\n", done.stderr)
    assert "Traceback" not in (tmp_path / "log").read_text()
