"""A results root that cannot be one is refused in one line."""

from pathlib import Path

import pytest
import yaml

from ontogeny.config.load import load_study
from ontogeny.errors import UserError
from ontogeny.ownership import claim

DEFAULT = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())


@pytest.mark.parametrize("kind", ["file", "dangling link"])
@pytest.mark.parametrize("name", ["default", "other"])
def test_a_results_root_that_is_no_folder_is_refused(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = load_study({**DEFAULT, "study": name})
    claim(study, "config.yaml")
    if kind == "file":
        Path("results").write_text("mine")
    else:
        Path("results").symlink_to("nowhere")
    with pytest.raises(UserError, match="results: results go into this folder, but it is no folder; move it away"):
        claim(study, "config.yaml")
