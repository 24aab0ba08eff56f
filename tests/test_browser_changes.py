import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_runs import KINDS, add_run, address, browsing
from fastapi.testclient import TestClient

JSON = {"accept": "application/json"}
EDIT = address("run", "7/edit")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    add_run(root, "run", KINDS["checkpoints"], 24)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with browsing(root) as client:
        yield client


def fields(client: TestClient, feature: int = 7) -> dict[str, Any]:
    """What the page of a feature sends along with a change."""
    html = client.get(address("run", feature)).text
    form = re.search(r'<form class="notes".*?</form>', html, re.DOTALL)
    assert form
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[0]))


def test_what_people_write_is_there_after_a_restart(root: Path, client: TestClient) -> None:
    text = {"interpretation": "Names <b>of</b> planets", "tags": "sky, names,", "note": "line\nline", "bookmark": "on"}
    saved = client.post(EDIT, data={**fields(client), **text}, headers=JSON)
    assert saved.status_code == 200
    assert saved.json() == {
        "bookmark": True,
        "tags": ["names", "sky"],
        "interpretation": "Names <b>of</b> planets",
        "note": "line\nline",
        "revision": 1,
    }
    with browsing(root) as other:
        html = other.get(address("run", 7)).text
        assert "Names &lt;b&gt;of&lt;/b&gt; planets" in html
        assert 'value="names, sky"' in html
        for query in ("bookmarked=1", "tag=sky", "q=planets"):
            assert re.findall(r'<tr id="f(\d+)"', other.get(address("run", f"?{query}")).text) == ["7"]
        assert 'aria-pressed="true"' in other.get(address("run")).text


def test_an_emptied_field_is_emptied_and_one_left_out_stays(client: TestClient) -> None:
    client.post(EDIT, data={**fields(client), "note": "to go", "interpretation": "to stay"}, headers=JSON)
    saved = client.post(EDIT, data={**fields(client), "note": ""}, headers=JSON).json()
    assert (saved["note"], saved["interpretation"]) == ("", "to stay")


def test_without_scripts_a_change_leads_back(client: TestClient) -> None:
    sent = {**fields(client, 8), "bookmark": "on"}
    answer = client.post(address("run", "8/edit?sort=density"), data=sent)
    assert (answer.status_code, answer.headers["location"]) == (303, address("run", "8?sort=density#notes"))
    sent = {**fields(client, 8), "bookmark": "off", "back": "list"}
    answer = client.post(address("run", "8/edit?page=1"), data=sent)
    assert (answer.status_code, answer.headers["location"]) == (303, address("run", "#f8"))


def test_a_change_upon_an_old_page_is_refused(client: TestClient) -> None:
    old = fields(client, 9)
    assert client.post(address("run", "9/edit"), data={**old, "note": "first"}, headers=JSON).status_code == 200
    refused = client.post(address("run", "9/edit"), data={**old, "note": "second"}, headers=JSON)
    assert refused.status_code == 409
    assert "feature 9 was changed elsewhere" in refused.json()["error"]
    assert fields(client, 9)["revision"] == "1"
    assert "first</textarea>" in client.get(address("run", 9)).text


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        ({"csrf": ""}, {}),
        ({"csrf": "x" * 43}, {}),
        ({}, {"origin": "http://evil.example"}),
        ({}, {"origin": "null"}),
        ({}, {"origin": "http://127.0.0.1:9999"}),
        ({}, {"cookie": "ontogeny_csrf_8765=" + "x" * 43}),
    ],
)
def test_a_change_that_comes_from_elsewhere_is_refused(
    client: TestClient, change: dict[str, str], headers: dict[str, str]
) -> None:
    sent = {**fields(client, 10), "bookmark": "on", **change}
    answer = client.post(address("run", "10/edit"), data=sent, headers=headers)
    assert answer.status_code == 403
    assert "does not come from a page of this server" in answer.text
    assert fields(client, 10)["revision"] == "0"


def test_a_change_from_the_page_itself_names_its_origin(client: TestClient) -> None:
    sent = {**fields(client, 11), "bookmark": "on"}
    answer = client.post(address("run", "11/edit"), data=sent, headers={**JSON, "origin": "http://127.0.0.1:8765"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "x"},
        {"revision": "-1"},
        {"bookmark": "maybe"},
        {"back": "http://evil.example"},
        {"weights": "x"},
        {"$set": "x"},
        {"tags": "a" * 41},
        {"tags": ",".join(map(str, range(21)))},
        {"interpretation": "a" * 2001},
        {"note": "a" * 20_001},
    ],
)
def test_a_change_that_cannot_be_is_refused_in_one_line(client: TestClient, change: dict[str, str]) -> None:
    answer = client.post(address("run", "12/edit"), data={**fields(client, 12), **change}, headers=JSON)
    assert answer.status_code == 400
    assert "Traceback" not in answer.text
    assert fields(client, 12)["revision"] == "0"


def test_changes_of_what_is_not_there_are_refused(client: TestClient) -> None:
    sent = {**fields(client), "bookmark": "on"}
    assert client.post(address("run", "24/edit"), data=sent).status_code == 404
    assert client.post(address("absent", "7/edit"), data=sent).status_code == 404
    assert client.get(EDIT).status_code == 405


def test_a_change_has_a_largest_size(client: TestClient) -> None:
    answer = client.post(EDIT, data={**fields(client), "note": "a" * 100_000})
    assert answer.status_code == 413
    assert "a change may have 100,000 bytes" in answer.text
