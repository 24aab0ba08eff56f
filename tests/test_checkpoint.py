"""Checkpoints that exist already, on disk and on a hub that runs on the loopback interface."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from tiny_model import tiny_model, write_tokenizer
from transformers import AutoModelForCausalLM

from ontogeny.config.models import HubSource, LocalSource
from ontogeny.errors import UserError
from ontogeny.files import crc32
from ontogeny.language_model.sources import bring_checkpoint

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "checkpoint.py"
NAME = "someone/tiny"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Folders step0 and step8 of a model, as somebody else would keep them."""
    for step in (0, 8):
        tiny_model(seed=step).save_pretrained(tmp_path / "there" / f"step{step}")
    return tmp_path / "there"


def local(source: Path) -> LocalSource:
    return LocalSource(source="local", path=f"{source}/step{{step}}")


def bring(source: Path, tokenizer: Path, step: int = 8) -> Path:
    """Bring a checkpoint from a folder, and say where it is then."""
    folder = tokenizer.parents[1] / "models" / "tiny" / f"step{step}"
    bring_checkpoint(local(source), step, tokenizer, folder, None)
    return folder


def same_weights(folder: Path, seed: int) -> bool:
    found = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).state_dict()
    expected = tiny_model(seed=seed).state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def refused(source: Path, tokenizer: Path) -> str:
    """Bring a checkpoint that cannot be brought: nothing is left behind, and the reason is one line."""
    with pytest.raises(UserError) as error:
        bring(source, tokenizer)
    models = tokenizer.parents[1] / "models" / "tiny"
    assert not models.exists() or not list(models.iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_local_checkpoint_arrives_whole_and_linked(source: Path, tokenizer: Path) -> None:
    for step in (0, 8):
        folder = bring(source, tokenizer, step)
        assert {file.name for file in folder.iterdir()} == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "checkpoint.json",
        }
        assert (folder / "model.safetensors").samefile(source / f"step{step}" / "model.safetensors")
        assert same_weights(folder, seed=step)
        record = json.loads((folder / "checkpoint.json").read_text())
        assert record.pop("provenance")["versions"].startswith("torch ")
        assert record == {
            "model": "tiny",
            "step": step,
            "architecture": "GPTNeoXForCausalLM",
            "layers": 3,
            "d_model": 16,
            "parameters": sum(weight.numel() for weight in tiny_model().parameters()),
            "weights_crc32": {"model.safetensors": crc32(folder / "model.safetensors")},
        }


def test_weights_are_copied_where_no_link_can_be_made(
    source: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_file_system(*_: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", another_file_system)
    folder = bring(source, tokenizer)
    assert not (folder / "model.safetensors").samefile(source / "step8" / "model.safetensors")
    assert same_weights(folder, seed=8)


def test_weights_in_several_files_arrive_with_their_index(source: Path, tokenizer: Path) -> None:
    tiny_model(seed=8).save_pretrained(source / "step8", max_shard_size="8KB")
    (source / "step8" / "model.safetensors").unlink()
    folder = bring(source, tokenizer)
    files = sorted(file.name for file in folder.glob("model-*.safetensors"))
    assert len(files) > 1
    assert list(json.loads((folder / "checkpoint.json").read_text())["weights_crc32"]) == files
    assert same_weights(folder, seed=8)


def test_pickled_weights_are_used_where_there_are_no_others(source: Path, tokenizer: Path) -> None:
    (source / "step8" / "model.safetensors").unlink()
    torch.save(tiny_model(seed=8).state_dict(), source / "step8" / "pytorch_model.bin")
    folder = bring(source, tokenizer)
    assert list(json.loads((folder / "checkpoint.json").read_text())["weights_crc32"]) == ["pytorch_model.bin"]
    assert same_weights(folder, seed=8)


def test_the_config_of_the_model_is_not_that_beside_the_tokenizer(source: Path, tokenizer: Path) -> None:
    (tokenizer.parent / "config.json").write_text('{"model_type": "gpt2"}')
    assert json.loads((bring(source, tokenizer) / "config.json").read_text())["model_type"] == "gpt_neox"


def test_a_larger_tokenizer_than_the_models_is_refused(source: Path, tmp_path: Path) -> None:
    large = write_tokenizer(tmp_path / "large" / "tokenizer", vocabulary=33)
    assert "models.tiny: the model knows 32 tokens" in refused(source, large)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    assert f"models.tiny: there is no model in {tmp_path}/step8/ (no config.json)" in refused(tmp_path, tokenizer)


@pytest.mark.parametrize("damage", ["cut short", "absent", "one of several absent", "unknown architecture"])
def test_a_damaged_checkpoint_is_refused_by_name(source: Path, tokenizer: Path, damage: str) -> None:
    weights = source / "step8" / "model.safetensors"
    if damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:-1])
        assert f"{weights}: its weights cannot be read" in refused(source, tokenizer)
    elif damage == "absent":
        weights.unlink()
        assert f"{weights.parent}: there are no weights here" in refused(source, tokenizer)
    elif damage == "one of several absent":
        tiny_model(seed=8).save_pretrained(source / "step8", max_shard_size="8KB")
        first = next(iter(sorted((source / "step8").glob("model-*.safetensors"))))
        first.unlink()
        assert f"{first}: no such file" in refused(source, tokenizer)
    else:
        (source / "step8" / "config.json").write_text('{"model_type": "telepathy"}')
        assert "models.tiny: transformers cannot build its config.json" in refused(source, tokenizer)


class Hub(ThreadingHTTPServer):
    """As much of the hub's protocol as fetching a revision takes, over a folder with one folder per revision."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.folder = folder
        self.gated = False
        self.online = True
        self.fetched: list[str] = []
        self.commits = {hashlib.sha1(path.name.encode()).hexdigest(): path.name for path in folder.iterdir()}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubRequest(BaseHTTPRequestHandler):
    """One request to the hub."""

    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if not self.server.online:
            return self._refuse(503, "Closed")
        if not path.removeprefix("/api/models").startswith(f"/{NAME}/"):
            return self._refuse(404, "RepoNotFound")
        *_, kind, revision, file = path.split("/") if "/resolve/" in path else (*path.split("/"), "")
        commits = {name: commit for commit, name in self.server.commits.items()}
        commit = revision if revision in self.server.commits else commits.get(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        folder = self.server.folder / self.server.commits[commit]
        if kind == "revision":
            return self._answer(json.dumps({"id": NAME, "sha": commit, "siblings": []}).encode(), {})
        if kind == "tree":
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": crc32(f)} for f in folder.iterdir()
            ]
            return self._answer(json.dumps(files).encode(), {})
        if self.server.gated:
            return self._refuse(403, "GatedRepo")
        if self.command == "GET":
            self.server.fetched.append(file)
        return self._answer(
            (folder / file).read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{crc32(folder / file)}"'}
        )

    def _answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    for folder in source.iterdir():
        (folder / "README.md").write_text("# A model")
        (folder / "optimizer.bin").write_bytes(b"large")
        (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    server = Hub(source)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def hub_settings(name: str = NAME) -> HubSource:
    return HubSource(source="hub", name=name)


def command(url: str, tokenizer: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the command as a rule does, with a hub at `url` and a cache of its own."""
    folder = tokenizer.parents[1] / "models" / "tiny" / "step8"
    line = [sys.executable, str(SCRIPT), "--settings", hub_settings().model_dump_json(), "--step", "8"]
    line += ["--tokenizer", str(tokenizer), "--out", str(folder / "checkpoint.json")]
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tokenizer.parents[1] / "cache")}
    environment.pop("HF_HUB_OFFLINE", None)
    return folder, subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def at_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Let this process use the hub, as `HF_ENDPOINT` does where it is set from the start."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub


def test_a_revision_of_the_hub_arrives_with_the_files_that_are_needed(hub: Hub, tokenizer: Path) -> None:
    folder, done = command(hub.url, tokenizer)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.fetched) == ["config.json", "model.safetensors"]
    assert same_weights(folder, seed=8)
    assert "%|" not in done.stderr


def test_a_hub_out_of_reach_is_one_line(tokenizer: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    folder, done = command(f"http://127.0.0.1:{port}", tokenizer)
    assert done.returncode == 1
    assert done.stderr.startswith("error: models.tiny.name: 'someone/tiny' at step 8: the hub cannot be reached")
    assert done.stderr.count("\n") == 1
    assert not folder.exists()


def test_what_was_fetched_once_needs_no_hub(at_hub: Hub, tokenizer: Path, tmp_path: Path) -> None:
    bring_checkpoint(hub_settings(), 8, tokenizer, tmp_path / "models" / "first" / "step8", None)
    at_hub.online = False
    bring_checkpoint(hub_settings(), 8, tokenizer, tmp_path / "models" / "second" / "step8", None)
    assert same_weights(tmp_path / "models" / "second" / "step8", seed=8)
    with pytest.raises(UserError, match=r"models\.second\.name: .* at step 0: the hub cannot be reached"):
        bring_checkpoint(hub_settings(), 0, tokenizer, tmp_path / "models" / "second" / "step0", None)


def test_pickled_weights_of_the_hub_arrive_where_it_has_no_others(at_hub: Hub, tokenizer: Path, tmp_path: Path) -> None:
    (at_hub.folder / "step8" / "model.safetensors").unlink()
    torch.save(tiny_model(seed=8).state_dict(), at_hub.folder / "step8" / "pytorch_model.bin")
    folder = tmp_path / "models" / "tiny" / "step8"
    bring_checkpoint(hub_settings(), 8, tokenizer, folder, None)
    assert sorted(at_hub.fetched) == ["config.json", "pytorch_model.bin"]
    assert same_weights(folder, seed=8)


@pytest.mark.parametrize(
    ("name", "step", "gated", "reason"),
    [
        (NAME, 9, False, "it has no revision 'step9'"),
        ("someone/else", 8, False, "the hub has no such model"),
        (NAME, 8, True, "it is gated"),
        ("no/such/name", 8, False, "a model id of the hub looks like"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    at_hub: Hub, tokenizer: Path, tmp_path: Path, name: str, step: int, gated: bool, reason: str
) -> None:
    at_hub.gated = gated
    folder = tmp_path / "models" / "tiny" / f"step{step}"
    with pytest.raises(UserError, match=f"^models.tiny.name: '{name}' at step {step}: {reason}.*$"):
        bring_checkpoint(hub_settings(name), step, tokenizer, folder, None)
    assert not folder.exists()
