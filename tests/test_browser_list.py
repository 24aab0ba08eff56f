import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from browser_runs import KINDS, add_run, address, browsing
from database_files import RunFiles
from fastapi.testclient import TestClient

LATENTS = 200


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def files(root: Path) -> RunFiles:
    return add_run(root, "run", KINDS["checkpoints"], LATENTS)


@pytest.fixture(scope="module")
def table(files: RunFiles) -> pd.DataFrame:
    table = pq.read_table(files.features / "features.parquet").to_pandas()
    table["peak_norm"] = table.decoder_norm.map(max)
    attributed = pq.read_table(files.metrics / "attributions-neox.parquet").to_pandas()
    table["attribution"] = attributed.induction.map(lambda values: max(values, key=abs))
    return table


@pytest.fixture(scope="module")
def client(root: Path, files: RunFiles) -> Iterator[TestClient]:  # noqa: ARG001
    with browsing(root) as client:
        yield client


def listed(client: TestClient, query: str) -> list[int]:
    """The features of all pages of a list, in order, and as many as the page says."""
    found: list[int] = []
    where: str | None = address("run", f"?{query}")
    while where:
        page = client.get(where)
        assert page.status_code == 200, page.text
        found += [int(number) for number in re.findall(r'<tr id="f(\d+)"', page.text)]
        more = re.search(r'rel="next" href="([^"]+)"', page.text)
        where = unescape(more[1]) if more else None
    assert f"<b>{len(found):,}</b>" in page.text
    return found


@pytest.mark.parametrize(
    "column", ["density", "peak_norm", "emergence_step", "peak_step", "persistence", "max_activation"]
)
@pytest.mark.parametrize("descending", [False, True])
def test_lists_are_ordered_by_any_quantity(
    client: TestClient, table: pd.DataFrame, column: str, descending: bool
) -> None:
    ordered = table[~table.dead].sort_values([column, "feature"], ascending=[not descending, True], na_position="last")
    assert listed(client, f"sort={column}&size=25" + "&desc=1" * descending) == list(ordered.feature)


def test_lists_are_ordered_by_the_attribution_of_a_task_and_show_it(client: TestClient, table: pd.DataFrame) -> None:
    ordered = table[~table.dead].sort_values(["attribution", "feature"], ascending=[False, True])
    assert listed(client, "sort=attribution/neox/induction&desc=1") == list(ordered.feature)
    page = client.get(address("run", "?sort=attribution/neox/induction&desc=1")).text
    assert 'aria-sort="descending"' in page
    assert f'data-label="induction">{ordered.attribution.iloc[0]:.2f}</td>' in page


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("min.density=0.25&max.density=0.5", "0.25 <= density <= 0.5 and not dead"),
        ("min.emergence_step=4&max.emergence_step=64", "4 <= emergence_step <= 64 and not dead"),
        ("max.peak_step=0", "peak_step == 0 and not dead"),
        ("dead=only", "dead"),
        ("dead=show", "feature >= 0"),
        ("min.peak_norm=1.5&dead=show", "peak_norm >= 1.5"),
        ("min.density=&max.density=&q=&tag=", "not dead"),
    ],
)
def test_filters_find_what_a_filter_of_the_table_finds(
    client: TestClient, table: pd.DataFrame, query: str, condition: str
) -> None:
    assert listed(client, query) == list(table.query(condition).feature)


def test_classes_and_types_are_chosen_by_check_boxes(client: TestClient, files: RunFiles) -> None:
    types = pq.read_table(files.metrics / "feature_types.parquet").to_pandas()
    expected = types[types["type"].isin(["induction", "other"])].feature
    assert listed(client, "type=induction&type=other") == sorted(expected)
    lasting, transient = (listed(client, f"class={name}") for name in ("lasting", "transient"))
    assert listed(client, "class=lasting&class=transient") == sorted(lasting + transient)
    assert lasting
    assert transient


def test_words_are_searched_for(client: TestClient, files: RunFiles) -> None:
    samples = pq.read_table(files.features / "samples.parquet").to_pandas()
    fires = samples[
        [
            any(text == " w77" and a for text, a in zip(t, v, strict=True))
            for t, v in zip(samples.texts, samples.activations, strict=True)
        ]
    ]
    decoders = pq.read_table(files.features / "decoders.parquet").to_pandas()
    promotes = decoders[[" w77" in {text for site in sites for text in site} for sites in decoders.promoted_texts]]
    live = set(listed(client, ""))
    expected = (set(fires.feature) | set(promotes.feature)) & live
    assert expected
    assert set(listed(client, "q=w77")) == expected
    assert set(listed(client, "q=w77&context=1")) >= expected
    assert set(listed(client, "q=w77*")) >= expected
    page = client.get(address("run", "?q=nowhere")).text
    assert "No feature is found" in page
    assert f'href="{address("run")}"' in page


@pytest.mark.parametrize(
    "query",
    [
        "unknown=1",
        "sort=nothing",
        "sort=dead",
        "sort=peak_site",
        "sort=$where",
        "min.dead=0",
        "min.$where=1",
        "min.density[$gt]=1",
        "density[$gt]=1",
        "q[$ne]=x",
        "min.density=x",
        "min.density=nan",
        "min.density=inf",
        "min.density=" + "1" * 400,
        "class=unknown",
        "class=$ne",
        "class[]=lasting",
        "type=%7B%22$ne%22:null%7D",
        "size=51",
        "size=99999999999",
        "page=0",
        "page=-1",
        "page=1e99",
        "page=x",
        "page=1.5",
        "size=25.9",
        "page=1&page=2",
        "min.density=0.1&min.density=0.2",
        "q=a&q=b",
        "q=" + "a" * 201,
        "tag=" + "a" * 41,
        "desc=yes",
        "dead=maybe",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_in_one_line(client: TestClient, query: str) -> None:
    for where in (address("run", f"?{query}"), address("run", f"7?{query}"), address("run", f"random?{query}")):
        page = client.get(where)
        assert page.status_code == 400
        assert "parameter " in page.text
        assert "Traceback" not in page.text


def test_operators_in_words_are_words(client: TestClient) -> None:
    for words in ("$where", "{$ne: 1}", ".*", "^", "\\", "a/b", "%00", "*", "' or 1=1", "\U0010ffff*"):
        assert client.get(address("run"), params={"q": words}).status_code == 200


def test_an_address_is_written_back_as_it_was_read(client: TestClient) -> None:
    query = "q=w7%2A&sort=density&context=1&desc=1&size=25&class=fading&class=lasting&min.density=0.1"
    page = unescape(client.get(address("run", "?" + query)).text)
    assert f'href="{address("run", "random?" + query)}"' in page
    assert 'value="w7*"' in page
    assert 'name="min.density" value="0.1"' in page
