import base64
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from browser_runs import HOSTILE, KINDS, add_hostile_run, add_run, address, browsing
from database_files import SITES, RunFiles
from fastapi.testclient import TestClient

from ontogeny.browser.links import SECTIONS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, RunFiles]:
    found = {kind: add_run(root, kind, sites, 24) for kind, sites in KINDS.items()}
    found["bare"] = add_run(root, "bare", SITES, 24, bare=True)
    add_hostile_run(root)
    return found


@pytest.fixture(scope="module")
def client(root: Path, runs: dict[str, RunFiles]) -> Iterator[TestClient]:  # noqa: ARG001
    with browsing(root) as client:
        yield client


def text_of(html: str) -> str:
    return unescape(" ".join(re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL).split()))


def data_of(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_first_page_lists_every_run_with_what_was_measured(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    for kind in (*KINDS, "bare", "hostile"):
        assert f'href="{address(kind)}"' in page.text
    text = text_of(page.text)
    assert "crosscoder checkpoints neox, 5 checkpoints, steps 0 to 512, blocks.2.hook_resid_post 24 " in text
    assert "0.125" in text
    assert "8.33 %" in text
    assert "neox and gpt, step 512" in text


@pytest.mark.parametrize("kind", [*KINDS, "bare"])
def test_every_kind_of_run_has_a_list_and_a_page_of_each_feature(client: TestClient, kind: str) -> None:
    page = client.get(address(kind))
    assert page.status_code == 200
    assert page.text.count('<tr id="f') == 22
    for feature in range(24):
        page = client.get(address(kind, feature))
        assert page.status_code == 200, page.text
        assert f"<h1>Feature {feature}</h1>" in page.text


@pytest.mark.parametrize(
    ("kind", "shown", "absent"),
    [
        ("checkpoints", ["Norm by checkpoint", "Class", "Emerges"], ["Relative norm"]),
        ("one", ["Density"], ["Norm by", "Class", "Emerges", "Persistence"]),
        ("layers", ["Norm by layer", "Class", "First layer"], ["Emerges"]),
        ("models", ["Norm by model", "Relative norm", "Decoder cosine"], ["Class", "Emerges", "Persistence"]),
        ("sites", ["Norm by site", "Class", "First site"], ["Emerges"]),
        ("bare", ["Norm by checkpoint"], ["Promotes", "Attribution", "Detection"]),
    ],
)
def test_a_list_has_the_columns_that_make_sense_over_its_sites(
    client: TestClient, kind: str, shown: list[str], absent: list[str]
) -> None:
    text = text_of(client.get(address(kind)).text.partition("<main")[2])
    assert [word for word in shown if word not in text] == []
    assert [word for word in absent if word in text] == []


@pytest.mark.parametrize(
    ("kind", "shown", "absent"),
    [
        ("checkpoints", ['id="site"', 'data-chart="norms"', 'data-chart="rotation"', "near-title", "read here"], []),
        ("one", ["promotions-title", "near-title"], ['id="site"', 'data-chart="norms"', 'data-chart="rotation"']),
        ("layers", ['id="site"', 'data-chart="rotation"', "block 3"], []),
        ("models", ['id="site"', 'data-chart="norms"', "Relative norm"], ['data-chart="rotation"']),
        ("bare", ['id="site"', "Samples"], ['data-chart="rotation"', "promotions-title", "near-title", "Attribution"]),
    ],
)
def test_a_page_has_the_parts_that_its_run_has(
    client: TestClient, kind: str, shown: list[str], absent: list[str]
) -> None:
    html = client.get(address(kind, 7)).text
    assert [part for part in shown if part not in html] == []
    assert [part for part in absent if part in html] == []


def test_scripts_read_what_the_tables_say(client: TestClient, runs: dict[str, RunFiles]) -> None:
    files, sites = runs["checkpoints"], len(SITES)
    data = data_of(client.get(address("checkpoints", 7)).text)
    features = pq.read_table(files.features / "features.parquet").to_pylist()[7]
    decoders = pq.read_table(files.features / "decoders.parquet").to_pylist()[7]
    samples = [row for row in pq.read_table(files.features / "samples.parquet").to_pylist() if row["feature"] == 7]
    assert data["axis"]["names"] == [f"step {site.step}" for site in SITES]
    np.testing.assert_allclose(data["norms"], features["decoder_norm"], rtol=1e-4)
    np.testing.assert_allclose(np.ravel(data["rotation"]), decoders["rotation"], atol=1e-4)
    assert data["histogram"] == features["histogram"]
    assert [text for text, _ in data["promotions"][2]["promoted"]] == decoders["promoted_texts"][2]
    assert len(data["samples"]) == len(samples) == 6
    assert base64.b64decode(data["samples"][4]["readings"]) == samples[4]["readings"]
    assert len(samples[4]["readings"]) == sites * len(samples[4]["tokens"])


def test_sites_are_shown_in_the_order_of_their_steps(root: Path) -> None:
    files = add_run(root, "backwards", SITES[::-1], 24)
    features = pq.read_table(files.features / "features.parquet").to_pylist()[7]
    decoders = pq.read_table(files.features / "decoders.parquet").to_pylist()[7]
    readings = next(
        row["readings"] for row in pq.read_table(files.features / "samples.parquet").to_pylist() if row["feature"] == 7
    )
    with browsing(root) as client:
        data = data_of(client.get(address("backwards", 7)).text)
    assert data["axis"]["names"][0] == "step 0"
    np.testing.assert_allclose(data["norms"], features["decoder_norm"][::-1], rtol=1e-4)
    np.testing.assert_allclose(data["rotation"][0], decoders["rotation"][::-1][: len(SITES)], atol=1e-4)
    assert [text for text, _ in data["promotions"][0]["promoted"]] == decoders["promoted_texts"][-1]
    width = len(readings) // len(SITES)
    assert base64.b64decode(data["samples"][0]["readings"])[:width] == readings[-width:]


def test_text_of_the_corpus_is_never_markup(client: TestClient) -> None:
    for page in (client.get(address("hostile")), *(client.get(address("hostile", n)) for n in range(8))):
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img" not in page.text
    assert HOSTILE in text_of(client.get(address("hostile")).text)
    assert data_of(client.get(address("hostile", 0)).text)["promotions"][0]["promoted"][0][0] == HOSTILE


def test_a_dead_feature_has_a_page_and_says_so(client: TestClient) -> None:
    text = text_of(client.get(address("checkpoints", 5)).text)
    assert "never fires" in text
    assert "fires on none of 4,096 heldout rows" in text


def test_previous_and_next_follow_the_list(client: TestClient, runs: dict[str, RunFiles]) -> None:
    table = pq.read_table(runs["checkpoints"].features / "features.parquet").to_pandas()
    expected = list(table[~table.dead].sort_values(["density", "feature"], ascending=[False, True]).feature)
    query = "sort=density&desc=1"
    for before, here, after in zip(expected, expected[1:], expected[2:], strict=False):
        html = unescape(client.get(address("checkpoints", f"{here}?{query}")).text)
        assert f'rel="prev" href="{address("checkpoints", before)}?{query}"' in html
        assert f'rel="next" href="{address("checkpoints", after)}?{query}"' in html
    first = client.get(address("checkpoints", f"{expected[0]}?{query}")).text
    assert 'rel="prev"' not in first
    assert "1 of 22" in text_of(first)


def test_a_random_feature_is_one_of_those_found(client: TestClient) -> None:
    found = client.get(address("checkpoints", "random?dead=only"))
    assert found.status_code == 303
    assert re.fullmatch(address("checkpoints", r"(5|21)\?dead=only"), found.headers["location"])
    assert client.get(address("checkpoints", "random?q=nowhere")).status_code == 404


def test_pages_say_where_they_are(client: TestClient) -> None:
    html = client.get(address("checkpoints", 7)).text
    for section in SECTIONS:
        assert section.label in html
    for landmark in ("<header", "<main", "<nav", 'lang="en"', 'class="skip"', 'role="status"'):
        assert landmark in html
    for table in re.findall(r"<table.*?</table>", html, re.DOTALL):
        assert "<caption" in table


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        ("/planets/crosscoder/absent/", 404, "there is no run planets/crosscoder/absent"),
        ("/planets/crosscoder/%7B%22$gt%22:%22%22%7D/", 404, "there is no run"),
        ("/planets/crosscoder/checkpoints/24", 404, "there is no feature 24; expected 0 to 23"),
        ("/planets/crosscoder/checkpoints/-1", 404, "there is no feature -1"),
        ("/planets/crosscoder/checkpoints/seven", 404, "there is no such page"),
        (f"/planets/crosscoder/checkpoints/{'9' * 5000}", 404, "there is no such page"),
        ("/planets/crosscoder/checkpoints/?page=2", 404, "page 2: there are 1 pages of 50 features"),
        ("/static/absent.js", 404, "there is no such page"),
        ("/static/%2e%2e", 404, "there is no such page"),
        ("/nowhere", 404, "there is no such page"),
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(client: TestClient, path: str, status: int, line: str) -> None:
    page = client.get(path)
    assert page.status_code == status
    assert line in text_of(page.text)
    assert "Traceback" not in page.text


def test_scripts_and_styles_come_from_the_server_alone(client: TestClient) -> None:
    html = client.get(address("checkpoints", 7)).text
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert [source for source in sources if "//" in source] == []
    for source in {source for source in sources if source.startswith("/static/")}:
        assert client.get(source).status_code == 200, source
    assert re.findall(r"<script(?![^>]*(?:src=|application/json))", html) == []
    assert re.findall(r"\son\w+=", html) == []
    assert client.get("/static/plotly.min.js").headers["content-type"].startswith("text/javascript")


def test_a_page_says_the_quantities_of_its_feature(client: TestClient, runs: dict[str, RunFiles]) -> None:
    row = pq.read_table(runs["models"].features / "features.parquet").to_pylist()[7]
    decoder = pq.read_table(runs["models"].features / "decoders.parquet").to_pylist()[7]
    task = pq.read_table(runs["models"].metrics / "attributions-gpt.parquet").to_pylist()[7]
    html = client.get(address("models", 7)).text
    said = {text_of(name): value for name, value in re.findall(r"<dt[^>]*>(.*?)</dt><dd>(.*?)</dd>", html)}
    share = row["decoder_norm"][1] / sum(row["decoder_norm"])
    assert said["Density"] == f"{100 * row['density']:.3g} %"
    assert said["Relative norm"] == f"{100 * share:.1f} %"
    assert float(said["Decoder cosine"].replace("\u2212", "-")) == pytest.approx(decoder["rotation"][1], rel=0.01)
    assert float(said["Attribution: induction (gpt)"].replace("\u2212", "-")) == pytest.approx(
        task["induction"][0], rel=0.01
    )
    assert "Emergence step" not in said
