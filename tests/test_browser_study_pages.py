import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from browser_runs import BASE, KINDS, add_hostile_run, add_run, address, ingest
from database_files import SITES, RunFiles, write_run
from evaluation_study import CONTEXT_LENGTH, HOOK, make_models, make_tokenizer, random_crosscoder, save
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

from ontogeny.browser.app import make_app
from ontogeny.config.database import DatabaseSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.database.connect import connect
from ontogeny.database.documents import RunName
from ontogeny.database.query import read_columns
from ontogeny.database.reading import read_features, visible_run
from ontogeny.evaluation.text import TextReader
from ontogeny.sites import Site

D_MODEL = 8
READ = [Site("neox", 0, HOOK), Site("neox", 4, HOOK)]
FIGURES = ("pareto", "attribution")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose run `read` has its dictionary and models on disk, and one figure of two."""
    root = tmp_path_factory.mktemp("study")
    for kind, sites in KINDS.items():
        add_run(root, kind, sites, 40)
    files = add_run(root, "read", READ, 40)
    add_run(root, "bare", SITES, 24, bare=True)
    add_hostile_run(root)
    make_tokenizer(root)
    (root / "tokenizer/tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    make_models(root, D_MODEL, READ)
    save(root, with_norms(files), run="read")
    (root / "figures").mkdir()
    says = PngImagePlugin.PngInfo()
    for word in ("Title", "Description", "Finding", "Run", "Tokens"):
        says.add_text(word, f"the {word.lower()} <b>")
    Image.new("RGB", (60, 40)).save(root / "figures/pareto.png", pnginfo=says, dpi=(300, 300))
    for suffix in ("pdf", "csv"):
        (root / f"figures/pareto.{suffix}").write_text("a,b\n")
    return root


def with_norms(files: RunFiles) -> Crosscoder:
    """A dictionary whose decoder norms are those of the run's table."""
    crosscoder = random_crosscoder(D_MODEL, "batchtopk", sites=READ)
    norms = torch.tensor(pq.read_table(files.features / "features.parquet")["decoder_norm"].to_pylist())
    with torch.no_grad():
        crosscoder.W_dec.copy_(torch.nn.functional.normalize(crosscoder.W_dec, dim=-1) * norms[..., None])
    return crosscoder


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    app = make_app(DatabaseSettings(), root / "server", root, "planets", None, CONTEXT_LENGTH, FIGURES)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def data_of(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def unpacked(text: str, kind: str) -> list[Any]:
    return list(np.frombuffer(base64.b64decode(text), kind))


@pytest.mark.parametrize("kind", [*KINDS, "bare", "hostile"])
@pytest.mark.parametrize("page", ["scatter", "compare", "try"])
def test_every_kind_of_run_has_these_pages(client: TestClient, kind: str, page: str) -> None:
    found = client.get(address(kind, page))
    assert found.status_code == 200, found.text
    assert 'aria-current="page"' in found.text


def test_a_scatter_has_every_feature_of_the_list_where_the_columns_say(root: Path, client: TestClient) -> None:
    data = data_of(client.get(address("checkpoints", "scatter?x=density&y=peak_norm&class=lasting")).text)
    with connect(DatabaseSettings(), root / "server") as database:
        run = visible_run(database, RunName("planets", "crosscoder", "checkpoints"))
        columns = read_columns(database, run, ["density", "peak_norm", "class"])
        found = [feature for feature in read_features(database, run, range(40)) if not feature.dead]
    expected = [feature.feature for feature in found if feature.class_ == "lasting"]
    assert unpacked(data["features"], "<i4") == expected
    assert unpacked(data["x"]["values"], "<f4") == pytest.approx(columns["density"].values[expected])
    assert unpacked(data["x"]["places"], "<f4") == pytest.approx(
        np.log10(columns["density"].values[expected]), abs=1e-5
    )
    assert {data["classes"][number] for number in unpacked(data["class"], "<i1")} == {"lasting"}


def test_steps_stand_on_a_log_axis_with_step_0_apart(client: TestClient) -> None:
    axis = data_of(client.get(address("checkpoints", "scatter?x=peak_step&y=density")).text)["x"]
    assert axis["kind"] == "steps"
    ticks = {name: place for place, name in axis["ticks"]}
    assert ticks["0"] < ticks["1"] == 0 < ticks["10"] == 1
    values, places = unpacked(axis["values"], "<f4"), np.array(unpacked(axis["places"], "<f4"))
    for step in (4, 64, 512):
        here = places[np.array(values) == step]
        assert np.abs(here - np.log10(step)).max() < 0.34 * np.log10(4), "spread within a third of the distance"
    assert axis["spread"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("x=$where", "no quantity of this run"),
        ("y=feature", "no quantity of this run"),
        ("z=1", "parameter &#39;z&#39;"),
    ],
)
def test_a_scatter_of_nothing_is_refused(client: TestClient, query: str, said: str) -> None:
    found = client.get(address("checkpoints", f"scatter?{query}"))
    assert found.status_code == 400
    assert said in found.text


def test_only_the_scatter_may_compile_programs(client: TestClient) -> None:
    policy = {page: client.get(address("one", page)).headers["content-security-policy"] for page in ("", "scatter")}
    assert "unsafe-eval" in policy["scatter"]
    assert "unsafe-eval" not in policy[""]
    assert "unsafe-inline' 'unsafe-eval" not in policy["scatter"], "scripts of a page are never run"


def test_two_runs_stand_side_by_side(client: TestClient) -> None:
    page = client.get(address("checkpoints", "compare?with=planets/crosscoder/thirty-two"))
    data = data_of(page.text)
    assert data["runs"] == ["checkpoints", "thirty-two"]
    fvu = next(metric for metric in data["metrics"] if metric["label"] == "FVU")
    assert [len(line["values"]) for line in fvu["lines"]] == [5, 32]
    assert fvu["lines"][0]["values"] == pytest.approx([0.125 + step / 4096 for step in (0, 1, 4, 64, 512)])
    for one in data["distributions"]:
        assert [sum(counts) for counts in one["counts"]] == _positive(one["label"])
    assert "32 checkpoints" in page.text


def _positive(label: str) -> list[int]:
    """Features of a run of 40: three never fire, one has no decoder."""
    return [37, 37] if label == "Density" else [39, 39]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("with=planets/crosscoder/missing", 404),
        ("with=planets", 400),
        ("with=../../x", 404),
        ("with=a/b/c&with=a/b/c", 400),
        ("other=1", 400),
    ],
)
def test_a_comparison_with_nothing_says_so(client: TestClient, query: str, status: int) -> None:
    found = client.get(address("checkpoints", f"compare?{query}"))
    assert found.status_code == status, found.text


def test_figures_are_shown_and_what_is_not_drawn_is_named(client: TestClient) -> None:
    page = client.get("/figures")
    assert page.status_code == 200
    assert "the title &lt;b&gt;" in page.text
    assert "Not drawn yet: attribution" in page.text
    assert client.get("/figures/pareto.png").headers["content-type"] == "image/png"
    assert client.get("/figures/pareto.csv").text == "a,b\n"
    for missing in ("attribution.png", "pareto.exe", "..%2Fserver%2Fserver.json", "pareto"):
        assert client.get(f"/figures/{missing}").status_code == 404


def sent(client: TestClient, kind: str, text: str) -> Any:
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get(address(kind, "try")).text)
    assert csrf
    return client.post(address(kind, "try"), data={"text": text, "csrf": csrf[1]})


def test_a_typed_text_shows_what_the_models_say(root: Path, client: TestClient) -> None:
    page = sent(client, "read", "The snow fell")
    assert page.status_code == 200, page.text
    paths = root / "dictionaries/crosscoder/read", root / "models", root / "tokenizer/tokenizer.json"
    read = TextReader(*paths, CONTEXT_LENGTH).read("The snow fell", 1000)
    data = data_of(page.text)
    assert [int(number) for number in re.findall(r"<b>(\d+)</b></a>", page.text)] == [
        found.feature for found in read.features
    ]
    for sample, found in zip(data["samples"], read.features, strict=True):
        assert sample["activations"] == pytest.approx(found.activation_T.tolist(), rel=1e-3)
        readings = np.frombuffer(base64.b64decode(sample["readings"]), np.int8).reshape(found.readings_ST.shape)
        np.testing.assert_allclose(readings * sample["scale"], found.readings_ST, atol=sample["scale"])


@pytest.mark.parametrize(
    ("kind", "text", "status", "said"),
    [
        ("read", " ", 400, "there is no text; type a few words"),
        ("read", "x" * 2001, 400, "the text has 2,001 characters; shorten it to 2,000"),
        ("one", "snow", 404, f"{Path('dictionaries/crosscoder/one/config.json')}: "),
    ],
)
def test_a_text_that_cannot_be_read_says_why(client: TestClient, kind: str, text: str, status: int, said: str) -> None:
    page = sent(client, kind, text)
    assert page.status_code == status
    assert said in page.text
    assert "Traceback" not in page.text


def test_a_text_is_not_read_by_another_dictionary_than_the_one_in_the_database(root: Path, client: TestClient) -> None:
    save(root, random_crosscoder(D_MODEL, "batchtopk", latents=24, sites=READ[:1]), run="bare")
    page = sent(client, "bare", "The snow fell")
    assert page.status_code == 404
    assert "the dictionary on disk is not the one in the database; put it there by make database" in page.text


def test_a_run_with_a_gate_at_each_site_says_nothing_of_what_is_written(root: Path, client: TestClient) -> None:
    files = write_run(root, "gated", latents=8, samples=3, gate="site")
    ingest(root, files, files.besides())
    page = client.get(address("gated", 0)).text
    assert "written here" not in page
    assert "each has a gate of its own" in page
    assert "written here" in client.get(address("checkpoints", 0)).text


def test_a_text_needs_the_token_of_the_page(client: TestClient) -> None:
    assert client.post(address("read", "try"), data={"text": "snow", "csrf": "x" * 43}).status_code == 403


def test_typed_text_is_escaped(client: TestClient) -> None:
    page = sent(client, "read", "<script>alert(1)</script>")
    assert page.status_code == 200
    assert "<script>alert" not in page.text
