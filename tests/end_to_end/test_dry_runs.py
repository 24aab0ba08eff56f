"""Every config of the repository, and the one that README.md tells a user to write, is planned whole by Snakemake."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_model import write_tokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from ontogeny.config.load import load_study

from .conftest import PROJECT, Workspace

CONFIGS = [PROJECT / "config.yaml", *sorted((PROJECT / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_config_is_planned_whole(config: Path, tmp_path: Path) -> None:
    study = load_study(yaml.safe_load(config.read_text()), config.name)
    workspace = Workspace(tmp_path, PROJECT / "config.yaml")
    name = str(config.relative_to(PROJECT))
    Path(tmp_path, name).parent.mkdir(exist_ok=True)
    shutil.copyfile(config, tmp_path / name)
    targets = f"{study.root}/figures/", f"{study.root}/database/"
    planned, output = workspace.planned("--configfile", name, "--printshellcmds", "--", *targets)
    runs = {name: len(study.runs(name)) for name in study.dictionaries}
    apart = sum(count for name, count in runs.items() if study.dictionaries[name].sweep == "apart")
    assert planned["dictionary"] == apart
    measured = ("reconstruction", "features", "database")
    assert [planned[rule] for rule in measured] == [sum(runs.values())] * len(measured)
    assert planned["corpus"] == planned["gallery"] == 1
    assert f"{study.root}/figures/index.html" in output
    assert "--out" in output
    # An environment that is made for jobs has no package that carries a model, so they are told the file.
    told = re.findall(r"scripts/(tokenizer|checkpoint)\.py .* --file \S+\.gguf ", output)
    assert sorted(told) == (["checkpoint", "tokenizer"] if study.study == "smollm2" else [])
    assert '"shape"' not in output, "what the plan alone uses reruns nothing"


def test_the_study_of_the_readme_is_planned_whole(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, PROJECT / "config.yaml")
    data = tmp_path / "data"
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=32, hidden_size=8, num_hidden_layers=7, num_attention_heads=2))
    for step in (0, 128, 1000, 143000):
        write_tokenizer(data / f"pythia-160m/step{step}")
        model.save_pretrained(data / f"pythia-160m/step{step}")
    (data / "pile").mkdir()
    (data / "pile/00.jsonl").write_text('{"text": "word1 word2"}\n')
    readme = (PROJECT / "README.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    config = {key: value for block in blocks for key, value in yaml.safe_load(block).items()}
    assert {"models", "dictionaries", "corpus", "tokenizer", "tokens"} <= config.keys()
    (tmp_path / "configs").mkdir()
    text = yaml.safe_dump({"study": "mine", **config}).replace("/data/", f"{data}/")
    (tmp_path / "configs/mine.yaml").write_text(text)
    (command,) = re.findall(r"^snakemake (.* --configfile .*)$", readme, re.MULTILINE)
    planned, output = workspace.planned(*command.replace("<study>", "mine").split())
    expected = {"corpus": 1, "tokenizer": 1, "tokens": 2, "checkpoint": 4, "statistics": 4, "dictionary": 1, "nll": 1}
    assert expected.items() <= planned.items()
    assert planned["gallery"] == 1
    assert "results/mine/figures/index.html" in output
