"""What a killed, stopped or damaged run goes on from."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from crosscoder_runs import bytes_of, planted, run_settings, train_small, write_activations
from disk_limits import file_size_limit
from torch import Tensor

from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.state import SavedState, StateFolder
from ontogeny.crosscoder.step import Stepper
from ontogeny.errors import UserError

SCRIPT = Path(__file__).parents[1] / "scripts" / "dictionary.py"
ROWS = 8192


def state_of(step: int) -> SavedState:
    tensors = {"b": torch.arange(4.0) + step, "a": torch.tensor(step), "none": torch.empty(0, dtype=torch.int64)}
    return SavedState(step, tensors, [{"step": str(step), "loss": "0.5"}])


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state", "f")
    assert folder.load() is None
    folder.save(state_of(7))
    loaded = folder.load()
    assert loaded is not None
    assert (loaded.step, loaded.rows) == (7, [{"step": "7", "loss": "0.5"}])
    for name, tensor in state_of(7).tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].dtype == tensor.dtype


def test_the_last_two_states_are_kept_until_the_run_is_finished(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state", "f")
    for step in (9, 10, 11):
        folder.save(state_of(step))
    assert sorted(file.name for file in folder.folder.iterdir()) == [
        "state-000000010.safetensors",
        "state-000000011.safetensors",
    ]
    folder.remove()
    assert not folder.folder.exists()


def test_a_full_disk_is_one_line_and_keeps_the_states_before(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "f")
    folder.save(state_of(10))
    with (
        pytest.raises(UserError, match=r"state-000000020\.safetensors: the disk is full") as raised,
        file_size_limit(100),
    ):
        folder.save(state_of(20))
    assert "\n" not in str(raised.value)
    assert [file.name for file in tmp_path.iterdir()] == ["state-000000010.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_state_falls_back_to_the_one_before_it_and_says_so(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StateFolder(tmp_path, "f")
    folder.save(state_of(10))
    folder.save(state_of(20))
    last = tmp_path / "state-000000020.safetensors"
    whole = last.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    last.write_bytes({"cut": whole[:-5], "flip": flipped, "empty": b""}[damage])
    loaded = folder.load()
    assert loaded is not None
    assert loaded.step == 10
    assert "state-000000020.safetensors: damaged" in caplog.text


def test_where_every_state_is_damaged_training_starts_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StateFolder(tmp_path, "f")
    assert folder.load() is None
    assert caplog.text == "", "a run that begins has no state, and that is no trouble"
    for step in (10, 20):
        folder.save(state_of(step))
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    assert folder.load() is None
    assert caplog.text.count("damaged") == 2
    assert "no state is whole; training starts anew" in caplog.text


def test_a_state_of_other_settings_inputs_or_code_is_dropped_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    StateFolder(tmp_path / "state", "one").save(state_of(10))
    assert StateFolder(tmp_path / "state", "other").load() is None
    assert "made by other settings, inputs or code; training starts anew" in caplog.text
    assert StateFolder(tmp_path / "state", "one").load() is None


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_activations(tmp_path_factory.mktemp("activations"), planted(ROWS).raw_BSD, ROWS // 2)


def settings_of(**changes: Any) -> RunSettings:
    """Describe a run long enough to be killed in, with dead latents, thresholds and a state every ten steps."""
    dead = {"policy": "auxk", "after_rows": 512, "k": 4}
    plain: dict[str, Any] = {"epochs": 8, "latents": 64, "dead": dead, "log_every": 3, "save_every": 10}
    return run_settings(ROWS, 2, **{**plain, **changes})


def started(folder: Path, settings: RunSettings, activations: Path, fingerprint: str = "code") -> subprocess.Popen[str]:
    options = {
        "--settings": settings.model_dump_json(),
        "--activations": activations,
        "--state": folder / "state",
        "--out": folder / "run",
        "--fingerprint": fingerprint,
    }
    command = [sys.executable, str(SCRIPT), *(str(word) for pair in options.items() for word in pair)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_states(folder: Path, process: subprocess.Popen[str], last: int) -> None:
    """Wait until the state of step `last` or of a later one is there."""
    for _ in range(12_000):
        if any(int(file.stem.split("-")[1]) >= last for file in (folder / "state").glob("state-*.safetensors")):
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    raise AssertionError("no state was saved")


RESAMPLED: dict[str, Any] = {
    "nonlinearity": "jumprelu",
    "gate": "site",
    "k": None,
    "penalty": "tanh_quad",
    "sparsity": 0.3,
    "dead": {"policy": "resample", "interval": 40, "times": 4},
}


def train_up_to(step: int, folder: Path, settings: RunSettings, activations: Path) -> None:
    """Train until the process ends without a warning before the step that would follow."""
    take = Stepper.step

    def die(self: Stepper, raw_BSD: Tensor, logged: bool) -> dict[str, float] | None:
        if self.steps_done == step:
            raise KeyboardInterrupt
        return take(self, raw_BSD, logged)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Stepper, "step", die)
        train_small(folder, settings, activations)


@pytest.mark.parametrize("step", [1, 79, 81])
def test_a_run_stopped_around_a_resampling_ends_with_the_same_bytes(
    activations: Path, tmp_path: Path, step: int
) -> None:
    settings = settings_of(**RESAMPLED, save_every=1)
    train_small(tmp_path / "whole", settings, activations)
    train_up_to(step, tmp_path / "stopped", settings, activations)
    train_small(tmp_path / "stopped", settings, activations)
    assert bytes_of(tmp_path / "stopped" / "run") == bytes_of(tmp_path / "whole" / "run")


def test_a_run_goes_on_where_states_are_to_be_saved_at_other_steps(
    activations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train_small(tmp_path / "whole", settings_of(epochs=1, save_every=20), activations)
    train_up_to(25, tmp_path / "stopped", settings_of(epochs=1, save_every=20), activations)
    train_small(tmp_path / "stopped", settings_of(epochs=1, save_every=3), activations)
    assert "goes on from step 20 of 64" in caplog.text
    assert bytes_of(tmp_path / "stopped" / "run") == bytes_of(tmp_path / "whole" / "run")


@pytest.fixture(scope="module")
def uninterrupted(activations: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = started(folder, settings_of(), activations)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert re.search(r"step 512 of 512: .*; waited for data \d+\.\d % of the time", errors)
    assert not (folder / "state").exists()
    return bytes_of(folder / "run")


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(
    activations: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    for last in (10, 60, 200):
        process = started(tmp_path, settings_of(), activations)
        wait_for_states(tmp_path, process, last)
        process.kill()
        process.communicate()
        assert not (tmp_path / "run").exists()
    process = started(tmp_path, settings_of(), activations)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert "goes on from step 2" in errors
    assert bytes_of(tmp_path / "run") == uninterrupted
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_sigterm_saves_the_state_of_the_very_step_and_says_try_again(
    activations: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    process = started(tmp_path, settings_of(save_every=10_000), activations)
    time.sleep(0.1)
    while not is_waiting_for_sigterm(process.pid):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert process.returncode == 75, errors
    assert "stopped on request at step" in errors
    process = started(tmp_path, settings_of(save_every=10_000), activations)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert "goes on from step" in errors
    assert bytes_of(tmp_path / "run") == uninterrupted


def is_waiting_for_sigterm(pid: int) -> bool:
    """Tell whether a process handles SIGTERM itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_write_that_was_killed_half_way_is_ignored(
    activations: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    process = started(tmp_path, settings_of(), activations)
    wait_for_states(tmp_path, process, 50)
    process.kill()
    process.communicate()
    last = max((tmp_path / "state").glob("state-*.safetensors"))
    (tmp_path / "state" / f".{last.stem}.{os.getpid()}.tmp.safetensors").write_bytes(last.read_bytes()[:1000])
    last.write_bytes(last.read_bytes()[:1000])
    process = started(tmp_path, settings_of(), activations)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert bytes_of(tmp_path / "run") == uninterrupted


def test_a_change_of_anything_that_counts_starts_anew(
    activations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = started(tmp_path, settings_of(), activations)
    wait_for_states(tmp_path, process, 10)
    process.kill()
    process.communicate()
    other = write_activations(tmp_path / "activations", planted(ROWS, active=3.0).raw_BSD, ROWS // 2)
    changes = {
        "settings": (settings_of(learning_rate=2e-3), activations, "code"),
        "activations": (settings_of(), other, "code"),
        "code": (settings_of(), activations, "other code"),
    }
    for name, (settings, folder, code) in changes.items():
        shutil.copytree(tmp_path / "state", tmp_path / name / "state")
        caplog.clear()
        train_small(tmp_path / name, settings, folder, code)
        assert "training starts anew" in caplog.text
    train_small(tmp_path / "fresh", settings_of(), activations, "other code")
    assert bytes_of(tmp_path / "code" / "run") == bytes_of(tmp_path / "fresh" / "run")
