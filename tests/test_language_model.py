"""Training of a language model: what it writes, that it learns, and that its seed decides every byte."""

import json
import math
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_model import VOCABULARY, counting_tokens, tiny_model, write_contexts, write_tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from ontogeny import onednn
from ontogeny.config.models import Architecture, TrainedModel, Training
from ontogeny.errors import UserError
from ontogeny.files import crc32
from ontogeny.language_model.network import new_model
from ontogeny.language_model.training import (
    TrainingFiles,
    batches,
    documents_in,
    learning_rate,
    mean_loss,
    new_optimiser,
    spaced,
    train_language_model,
    train_step,
)
from ontogeny.tokens import Tokens, read_tokens

STEPS = (0, 1, 2, 25, 60)
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "language_model.py"


def model_settings(**training: float | str | tuple[float, float]) -> TrainedModel:
    shape = Architecture(layers=2, d_model=32, heads=2)
    recipe = {"steps": 60, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 5, "heldout_tokens": 120}
    return TrainedModel(
        source="train", checkpoints=STEPS, architecture=shape, training=Training(**{**recipe, **training})
    )


@pytest.fixture
def files(tmp_path: Path) -> TrainingFiles:
    return TrainingFiles(
        write_contexts(tmp_path / "tokens" / "train.h5", counting_tokens(64, 10, seed=1)),
        write_contexts(tmp_path / "tokens" / "heldout.h5", counting_tokens(20, 10, seed=2)),
        write_tokenizer(tmp_path / "tokenizer"),
        None,
        tmp_path / "models" / "tiny",
        None,
    )


def table(files: TrainingFiles) -> pd.DataFrame:
    return pd.read_csv(files.model / "training.csv")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_every_listed_step_is_a_whole_checkpoint_and_the_model_learns(files: TrainingFiles) -> None:
    counts = train_language_model(model_settings(), 0, files)
    assert counts == {"steps": 60, "tokens": 60 * 8 * 9}
    assert sorted(folder.name for folder in files.model.iterdir()) == sorted(
        ["training.csv", *(f"step{step}" for step in STEPS)]
    )
    for step in STEPS:
        folder = files.model / f"step{step}"
        record = json.loads((folder / "checkpoint.json").read_text())
        assert (record["model"], record["step"], record["layers"], record["d_model"]) == ("tiny", step, 2, 32)
        assert record["weights_crc32"] == {"model.safetensors": crc32(folder / "model.safetensors")}
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        assert record["parameters"] == sum(weight.numel() for weight in model.parameters())
        assert (model.config.bos_token_id, model.config.eos_token_id) == (0, 0)
        assert AutoTokenizer.from_pretrained(folder, local_files_only=True)("word3 word4")["input_ids"] == [3, 4]
    heldout = table(files).query("split == 'heldout'").set_index("step")["loss"]
    assert list(heldout.index) == list(STEPS)
    assert abs(heldout[0] - math.log(VOCABULARY)) < 0.5
    assert heldout[60] < 1.2 < 3 < heldout[1]


def test_the_recorded_loss_is_that_of_the_saved_weights(files: TrainingFiles) -> None:
    train_language_model(model_settings(), 0, files)
    tokens = read_tokens(files.heldout)
    chosen = torch.from_numpy(tokens.tokens[spaced(tokens, 120)].astype(np.int64))
    assert len(chosen) == 12
    for step in (0, 25, 60):
        model = AutoModelForCausalLM.from_pretrained(files.model / f"step{step}", local_files_only=True)
        logits = model(input_ids=chosen).logits[:, :-1]
        loss = functional.cross_entropy(logits.reshape(-1, VOCABULARY).double(), chosen[:, 1:].reshape(-1))
        assert table(files).query("split == 'heldout' and step == @step")["loss"].item() == pytest.approx(loss.item())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_seed_decides_every_byte(files: TrainingFiles, precision: str) -> None:
    settings = model_settings(precision=precision)
    runs = {name: files._replace(model=files.model.parent / name) for name in ("a", "again", "other")}
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        train_language_model(settings, seed, runs[name])
    a, again, other = (runs[name].model for name in runs)
    assert all(weights(a / f"step{step}") == weights(again / f"step{step}") for step in STEPS)
    assert (a / "training.csv").read_bytes() == (again / "training.csv").read_bytes()
    assert weights(a / "step0") != weights(other / "step0")
    assert weights(a / "step60") != weights(a / "step25") != weights(a / "step0")


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_learns_as_well_as_float32(
    files: TrainingFiles, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "MULTIPLIES_BFLOAT16", native)
    losses = {}
    for precision in ("float32", "bfloat16"):
        run = files._replace(model=files.model.parent / precision)
        train_language_model(model_settings(precision=precision), 0, run)
        losses[precision] = table(run).query("split == 'heldout'").set_index("step")["loss"]
    assert losses["bfloat16"][0] == losses["float32"][0]
    assert losses["bfloat16"][60] == pytest.approx(losses["float32"][60], abs=0.05)
    assert losses["bfloat16"][60] != losses["float32"][60]


def test_the_table_does_not_depend_on_how_often_it_is_written(files: TrainingFiles) -> None:
    tables = []
    for every in (1, 20):
        run = files._replace(model=files.model.parent / f"every{every}")
        train_language_model(model_settings(log_every=every), 0, run)
        tables.append(table(run))
    each, seldom = (rows.query("split == 'train'").set_index("step") for rows in tables)
    assert list(each.columns) == ["split", "loss", "learning_rate", "tokens"]
    assert list(each.index) == list(range(1, 61))
    assert list(seldom.index) == [20, 40, 60]
    assert seldom["loss"].tolist() == pytest.approx([each["loss"][start : start + 20].mean() for start in (0, 20, 40)])
    assert seldom["tokens"].tolist() == each["tokens"][[20, 40, 60]].tolist() == [1440, 2880, 4320]
    assert seldom["learning_rate"].tolist() == each["learning_rate"][[20, 40, 60]].tolist()


def test_padding_is_known_by_length_and_token_0_counts_where_it_is_real(tmp_path: Path) -> None:
    tokens = counting_tokens(6, 10, seed=3)
    tokens[:, 4] = 0
    length = np.array([10, 3, 7, 2, 10, 5], np.int32)
    padded, model, every = tokens.copy(), tiny_model(), np.arange(6)
    for row, used in enumerate(length):
        padded[row, used:] = 0
    clean = read_tokens(write_contexts(tmp_path / "padded.h5", padded, length))
    dirty = clean._replace(tokens=tokens)
    logits = model(input_ids=torch.from_numpy(padded.astype(np.int64))).logits.detach().double()
    losses = [
        functional.cross_entropy(
            logits[row, : used - 1], torch.from_numpy(padded[row, 1:used].astype(np.int64)), reduction="sum"
        )
        for row, used in enumerate(length)
    ]
    expected = float(sum(losses)) / int((length - 1).sum())
    assert mean_loss(model, clean, every) == pytest.approx(expected)
    assert mean_loss(model, dirty, every) == pytest.approx(expected)
    for read in (clean, dirty):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
        assert train_step(model, optimiser, read, every, 0.0, Training()) == (pytest.approx(expected), 31)


def test_a_context_of_bos_alone_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    tokens = read_tokens(
        write_contexts(tmp_path / "train.h5", counting_tokens(5, 10, seed=1), np.array([10, 1, 10, 1, 2], np.int32))
    )
    assert spaced(tokens, 10**6).tolist() == [0, 2, 4]
    assert spaced(tokens, 11).tolist() == [0, 2]


def test_tokens_with_nothing_to_predict_are_refused(files: TrainingFiles) -> None:
    write_contexts(files.train, counting_tokens(4, 10, seed=1), np.ones(4, np.int32))
    with pytest.raises(UserError, match=r"train\.h5: no context has a token after its BOS"):
        train_language_model(model_settings(), 0, files)


def test_a_loss_that_is_not_finite_names_the_step_and_the_keys(files: TrainingFiles) -> None:
    with pytest.raises(UserError, match=r"models\.tiny: .* is nan at step \d+ .*learning_rate") as error:
        train_language_model(model_settings(learning_rate=1e30), 0, files)
    assert "\n" not in str(error.value)
    assert not (files.model / "training.csv").exists()
    saved = {folder.name for folder in files.model.iterdir()}
    assert saved < {f"step{step}" for step in STEPS}
    for name in saved:
        model = AutoModelForCausalLM.from_pretrained(files.model / name, local_files_only=True)
        assert all(weight.isfinite().all() for weight in model.parameters())


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(files: TrainingFiles) -> None:
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"step0: the disk is full") as error:
            train_language_model(model_settings(), 0, files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "\n" not in str(error.value)
    assert list(files.model.iterdir()) == []


def test_every_context_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    contexts = np.arange(100, 110)
    stream = batches(contexts, 4, seed=0)
    epochs = np.concatenate([next(stream) for _ in range(5)]).reshape(2, 10)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [contexts.tolist()] * 2
    assert epochs[0].tolist() != epochs[1].tolist()
    other = batches(contexts, 4, seed=1)
    assert np.concatenate([next(other) for _ in range(5)]).tolist() != epochs.ravel().tolist()
    assert len(next(batches(contexts, 25, seed=0))) == 25


def test_the_learning_rate_warms_up_and_decays_to_its_end() -> None:
    recipe = Training(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.2)
    rates = [learning_rate(recipe, step) for step in (0, 1, 5, 10, 60, 110)]
    assert rates == pytest.approx([0.0, 0.1, 0.5, 1.0, 0.6, 0.2])
    cold = Training(steps=10, warmup_steps=0, learning_rate=1.0, final_learning_rate=0.0)
    assert learning_rate(cold, 1) > 0.97
    assert learning_rate(cold, 10) == pytest.approx(0)


def test_weight_decay_shrinks_matrices_and_nothing_else() -> None:
    model = tiny_model()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimiser = new_optimiser(model, Training(weight_decay=0.5, learning_rate=0.1))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimiser.step()
    for name, weight in model.named_parameters():
        kept = 0.95 if weight.ndim == 2 else 1.0
        torch.testing.assert_close(weight.detach(), kept * before[name])


def test_the_gradient_is_clipped(files: TrainingFiles) -> None:
    tokens: Tokens = read_tokens(files.train)
    moved = []
    for clip in (1e-3, 1e9):
        model, recipe = tiny_model(), Training(gradient_clip=clip)
        before = [weight.detach().clone() for weight in model.parameters()]
        train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), tokens, np.arange(8), 1.0, recipe)
        moved.append(sum((a - b).square().sum() for a, b in zip(before, model.parameters(), strict=True)).sqrt().item())
    assert moved[0] == pytest.approx(1e-3, rel=1e-3)
    assert moved[1] > 0.1


def test_initial_weights_have_the_deviations_of_gpt_neox() -> None:
    model = new_model(Architecture(layers=3, d_model=64, heads=4), 500, 16, 0, seed=0)
    small, residual = math.sqrt(2 / (5 * 64)), 2 / (3 * 8)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert torch.all(weight == (1.0 if name.endswith("norm.weight") else 0.0))
        else:
            writes = "attention.dense." in name or "dense_4h_to_h" in name
            assert weight.std().item() == pytest.approx(residual if writes else small, rel=0.05)
    assert model.config._attn_implementation == "sdpa"


def test_rotary_positions_need_an_even_number_of_dimensions() -> None:
    with pytest.raises(ValueError, match=r"rotary_fraction 0\.25 of a head's 4 dimensions makes 1"):
        Architecture(d_model=16, heads=4)


def test_the_command_logs_progress_and_says_a_mistake_in_one_line(files: TrainingFiles, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    options = {
        "settings": model_settings().model_dump_json(),
        "seed": "0",
        "tokens": str(files.train),
        "heldout": str(files.heldout),
        "tokenizer": str(files.tokenizer),
        "out": str(files.model),
        "log": str(log),
    }
    command = [sys.executable, str(SCRIPT), *(part for key, value in options.items() for part in (f"--{key}", value))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
    lines = log.read_text().splitlines()
    assert any("60 of 60 steps" in line for line in lines)
    assert all(line[2] == ":" for line in lines), lines
    files.heldout.write_bytes(files.heldout.read_bytes()[:-100])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "heldout.h5" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_starts_from_a_checkpoint_of_another(files: TrainingFiles, tmp_path: Path) -> None:
    train_language_model(model_settings(), 0, files)
    tuned = files._replace(start=files.model / "step60", model=tmp_path / "models" / "tuned")
    train_language_model(model_settings(), 1, tuned)
    base, first, last = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (files.model / "step60", tuned.model / "step0", tuned.model / "step60")
    )
    assert all(torch.equal(first[name], weight) for name, weight in base.items())
    assert not torch.equal(last["gpt_neox.embed_in.weight"], base["gpt_neox.embed_in.weight"])
    heldout = [table(own)[lambda rows: rows.split == "heldout"].set_index("step").loss for own in (files, tuned)]
    assert heldout[1][0] == heldout[0][60], "on the same heldout text"


def test_parts_of_the_documents_that_meet_have_none_in_common_and_leave_none_out(tmp_path: Path) -> None:
    tokens = read_tokens(write_contexts(tmp_path / "tokens.h5", counting_tokens(30, 10, seed=1)))
    tokens = tokens._replace(document=np.repeat(np.arange(7, dtype=np.int32), [9, 1, 1, 9, 1, 1, 8]))
    parts = [documents_in(tokens, part) for part in ((0.0, 0.3), (0.3, 0.5), (0.5, 1.0))]
    assert (np.sum(parts, axis=0) == 1).all()
    assert [set(tokens.document[part]) for part in parts] == [{0, 1, 2}, {3}, {4, 5, 6}]


def test_a_model_reads_its_documents_alone(files: TrainingFiles, tmp_path: Path) -> None:
    """Contexts of the first half count upwards, and others downwards: who has read the first half cannot say those."""
    upwards = counting_tokens(64, 10, seed=1)
    downwards = np.where(upwards > 0, VOCABULARY - upwards, 0).astype(np.uint16)
    text = write_contexts(tmp_path / "tokens" / "both.h5", np.concatenate([upwards, downwards]))
    losses = {}
    for name, part in (("first", [0.0, 0.5]), ("second", [0.5, 1.0])):
        own = files._replace(train=text, model=tmp_path / "models" / name)
        train_language_model(model_settings(documents=tuple(part)), 0, own)
        losses[name] = table(own)[lambda rows: rows.split == "heldout"].set_index("step").loss[60]
    assert losses["first"] < 1 < 3 < losses["second"], "heldout text counts upwards"


def test_a_part_without_documents_is_refused(files: TrainingFiles) -> None:
    with pytest.raises(
        UserError, match=r"models\.tiny\.training\.documents: no context .* of its 64 documents; widen it"
    ):
        train_language_model(model_settings(documents=(0.001, 0.002)), 0, files)
