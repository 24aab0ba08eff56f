"""Models on disk: a config that names one which is not there, or not as it should be, is refused before any job."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ontogeny.config.load import load_study
from ontogeny.errors import UserError

DEFAULT = yaml.safe_load((Path(__file__).resolve().parents[1] / "config.yaml").read_text())
HOOK = "blocks.2.hook_resid_post"


def local(folder: Path, steps: list[int], **shape: Any) -> dict[str, Any]:
    """Write the `config.json` of each step, with this shape, and name the model's folder."""
    for step in steps:
        (folder / f"step{step}").mkdir()
        (folder / f"step{step}/config.json").write_text(json.dumps(shape))
    return {"source": "local", "path": str(folder / "step{step}"), "checkpoints": steps}


def of_local(model: dict[str, Any], *hooks: str) -> dict[str, Any]:
    """Write a study of one dictionary over a local model."""
    sae = {**DEFAULT["dictionaries"]["sae"], "sites": [{"model": "neox", "hooks": list(hooks or [HOOK])}]}
    return {"corpus": DEFAULT["corpus"], "models": {"neox": model}, "dictionaries": {"sae": sae}}


def test_missing_local_checkpoint_is_named_before_any_job(tmp_path: Path) -> None:
    model = local(tmp_path, [0], num_hidden_layers=4)
    with pytest.raises(UserError, match=r"there is no model in .*step8/"):
        load_study(of_local({**model, "checkpoints": [0, 8]}))


def test_a_path_without_a_step_is_one_checkpoint_and_never_more(tmp_path: Path) -> None:
    model = {**local(tmp_path, [0, 8], num_hidden_layers=4), "path": str(tmp_path / "step0")}
    load_study(of_local({**model, "checkpoints": [0]}))
    with pytest.raises(
        UserError, match=r"models\.neox: path '.*step0' is the same for all 2 checkpoints; write \{step\}"
    ):
        load_study(of_local(model))


@pytest.mark.parametrize("name", ["{steps}", "{", "}", "{0}"])
def test_other_braces_of_a_path_are_part_of_its_name(tmp_path: Path, name: str) -> None:
    model = {"source": "local", "path": f"{tmp_path}/{name}/step{{step}}", "checkpoints": [0, 8]}
    with pytest.raises(UserError, match=r"models\.neox\.path: there is no model in ") as error:
        load_study(of_local(model))
    assert f"{tmp_path}/{name}/step0/" in str(error.value)
    (tmp_path / name).mkdir()
    assert load_study(of_local(local(tmp_path / name, [0, 8], num_hidden_layers=4)))


@pytest.mark.parametrize("content", [b'{"num_hidden_layers": 4', b"\xff", b"[1]"])
def test_a_damaged_model_config_is_named(tmp_path: Path, content: bytes) -> None:
    model = local(tmp_path, [0, 8])
    (tmp_path / "step0/config.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_study(of_local(model))
    assert str(error.value).startswith(f"config.yaml: {tmp_path}/step0/config.json ")
    assert "\n" not in str(error.value)


def test_a_local_model_is_held_to_the_shape_of_its_config(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 172}
    (tmp_path / "llama").mkdir()
    llama = local(tmp_path / "llama", [0], **shape, model_type="llama")
    load_study(of_local(llama, "blocks.0.mlp.gate.hook_in", "blocks.1.mlp.in.hook_out"))
    neox = local(tmp_path, [0], **shape, model_type="gpt_neox")
    for hooks, message in (
        (["blocks.4.hook_out"], "is in block 4, but the model has 4"),
        (["blocks.0.mlp.gate.hook_in"], "which a gpt_neox has not"),
        (
            ["blocks.0.hook_out", "blocks.1.mlp.hook_pre"],
            r"blocks\.1\.mlp\.hook_pre of neox is 172 wide, but .* is 64;",
        ),
    ):
        with pytest.raises(UserError, match=message):
            load_study(of_local(neox, *hooks))
