"""Figures as files: fit for a paper, the same every time, with their captions, or one line about a mistake."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import figure_tables as made_up
import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from default_tables import default_tables
from docutils.core import publish_parts
from figure_drawing import FIGURES, drawn
from PIL import Image

from ontogeny.config.figures import FigureSettings, FigureStyle
from ontogeny.figures.writer import figure_kinds, figure_module, write_figure

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Tables of the default study, by figure."""
    return default_tables(tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("name", FIGURES)
def test_files(name: str, tables: dict[str, list[Path]], tmp_path: Path) -> None:
    study = made_up.study(tmp_path)
    settings = figure_kinds()[name]()
    numbers = write_figure(name, tables[name], settings, FigureStyle(), tmp_path / name, study)

    pdf = (tmp_path / f"{name}.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf
    box = [float(number) for number in re.search(rb"/MediaBox \[ ([\d. ]+) \]", pdf).group(1).split()]
    assert box[2:] == pytest.approx([settings.width / 25.4 * 72, settings.height / 25.4 * 72], abs=0.01)

    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.size == tuple(int(length / 25.4 * 300) for length in (settings.width, settings.height))
        assert image.info["commit"] == "deadbeef0123"
        assert image.info["study"] == "default"
        assert image.info["Finding"] == figure_module(name).caption(numbers).finding
    again = pd.read_csv(tmp_path / f"{name}.csv")
    pd.testing.assert_frame_equal(again, numbers.replace("", np.nan), check_dtype=False, check_exact=True)


@pytest.mark.parametrize("name", FIGURES)
def test_same_tables_same_bytes(name: str, tables: dict[str, list[Path]], tmp_path: Path) -> None:
    study = made_up.study(tmp_path)
    write_figure(name, tables[name], figure_kinds()[name](), FigureStyle(), tmp_path / "here" / name, study)
    command = [sys.executable, str(ROOT / "scripts" / "figure.py"), "--figure", name, "--study", str(study)]
    command += ["--tables", *map(str, tables[name]), "--out", str(tmp_path / "there" / name)]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland", "MPLBACKEND": "svg"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    for suffix in ("pdf", "png", "csv"):
        here, there = (tmp_path / place / f"{name}.{suffix}" for place in ("here", "there"))
        assert here.read_bytes() == there.read_bytes(), suffix


def test_users_own_matplotlib_settings_change_nothing(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    write_figure("pareto", tables["pareto"], FigureSettings(), FigureStyle(), tmp_path / "plain", None)
    with mpl.rc_context({"lines.linewidth": 9, "axes.facecolor": "pink", "font.family": "serif"}):
        write_figure("pareto", tables["pareto"], FigureSettings(), FigureStyle(), tmp_path / "own", None)
        assert mpl.rcParams["lines.linewidth"] == 9
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "own.png").read_bytes()


def test_caption_speaks_of_the_numbers_drawn(tables: dict[str, list[Path]]) -> None:
    captions = {}
    for name in FIGURES:
        _, numbers = drawn(name, tables[name])
        captions[name] = figure_module(name).caption(numbers)
    assert "0.918 at L0 15.8 to 0.956 at L0 63 (crosscoder, all 12 sites)" in captions["pareto"].finding
    assert captions["pareto"].run == "3 runs of crosscoder, 3 runs of sae and 1 run of untrained"
    assert "0.91 at L0 28.3 (untrained, floor, 2 sites before training)" in captions["pareto"].finding
    assert captions["pareto"].tokens == "32,768 heldout rows"
    assert "0.015 (step 0) to 0.125 (step 1,000) at L0 31.5" in captions["reconstruction"].finding
    assert captions["reconstruction"].tokens == "32,768 heldout rows and 32,512 heldout tokens"
    table = pq.read_table(tables["decoder_norms"][0]).to_pandas()
    alive = table[~table["dead"]]
    assert (
        f"Of {len(alive):,} features that fire, {alive['initialisation'].sum():,}" in captions["decoder_norms"].finding
    )
    assert captions["decoder_norms"].run == "run latents2048-k32-seed0 of crosscoder"
    overview = captions["evolution_overview"].finding
    assert "The mean cosine of step 0 with step 1,000 is 0.418 for all features" in overview
    assert "features are above tau = 0.5 at 5 of 12 checkpoints or fewer, 0% at all." in overview
    classes = captions["feature_classes"].finding
    assert f"Of {len(alive):,} features that fire, 0 are always-on, 0 are returning" in classes
    assert "Agreement: above chance from step 64 on" in captions["attribution"].finding
    assert "Induction: not above chance at step 1,000" in captions["attribution"].finding
    assert captions["attribution"].tokens == "64 items a task"
    assert captions["necessity_sufficiency"].finding.startswith("At step 1,000. Agreement: 1.4")
    robustness = captions["robustness"]
    assert "half the checkpoints (12 checkpoints shared): 100.0% of 400 features of the reference" in robustness.finding
    assert "other spacing (6 checkpoints shared)" in robustness.finding
    assert robustness.run.startswith(
        "run latents2048-k32-seed0 of crosscoder, compared with latents2048-k32-seed0 of half"
    )
    assert "a uniform guess over 4,096 tokens: 8.32 nats" in captions["language_model"].finding
    assert "KL(model || unigram) is lowest at step 32, 0.3 nats" in captions["two_phases"].finding
    assert "the loss of bigrams is 4.75 nats, which the model passes by step 512" in captions["two_phases"].finding
    assert (
        captions["two_phases"].tokens == "16,000 heldout tokens of 24 documents, n-grams of 2,000,000 training tokens"
    )
    assert captions["two_phases"].run == "model neox, run latents2048-k32-seed0 of crosscoder"
    assert "Of 60 features, some site reads 60 (R^2 of 0.1 or more)" in captions["norm_as_strength"].finding


@pytest.mark.parametrize("name", [*FIGURES, "workflow"])
def test_captions_of_the_report(name: str) -> None:
    output = tuple(f"results/{name}.{suffix}" for suffix in ("pdf", "png", "csv"))
    job = SimpleNamespace(config={"study": "pythia", "seed": 3}, output=output)
    source = (ROOT / "report" / f"{name}.rst").read_text(encoding="utf-8")
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=job)
    page = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["body"]
    assert "tudy pythia" in page
    if name in FIGURES:
        assert " ".join(source.split("\n\n")[0].split()) == figure_module(name).DESCRIPTION
