"""What a results root says of itself."""

import json
from pathlib import Path

import pytest
import yaml

from ontogeny.config.load import load_study
from ontogeny.ownership import record

PROJECT = Path(__file__).resolve().parents[1]


def test_the_origin_of_a_results_root_stays_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(yaml.safe_load((PROJECT / "config.yaml").read_text()), "config.yaml")
    said = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        record(study, "config.yaml", PROJECT)
        said.append(json.loads(Path("results/study.json").read_text())["origin"])
    assert said[0].endswith(f":{tmp_path}/here/results")
    assert said[1].endswith(f":{tmp_path}/there/results")
    Path("results").rename("results-of-there")
    (tmp_path / "here/results").rename("results")
    record(study, "other.yaml", PROJECT)
    again = json.loads(Path("results/study.json").read_text())
    assert (again["origin"], again["config"]) == (said[0], "other.yaml")
