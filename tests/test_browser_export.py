import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from browser_runs import HOSTILE, KINDS, add_hostile_run, add_run
from database_files import SITES

from ontogeny.browser.export import _copy_static, _short, export
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import RunName
from ontogeny.database.edits import Change, change
from ontogeny.database.query import Query, find_features
from ontogeny.database.reading import visible_run
from ontogeny.errors import UserError

LATENTS = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    for kind, sites in KINDS.items():
        add_run(root, kind, sites, LATENTS)
    add_run(root, "bare", SITES, LATENTS, bare=True)
    add_hostile_run(root)
    with connect(DatabaseSettings(), root / "server") as database:
        run = visible_run(database, RunName("planets", "crosscoder", "checkpoints"))
        change(database, run, 7, Change(bookmark=True, tags=("verbs",), note="kept <b>"))
    (root / "figures").mkdir()
    runs = [("crosscoder", kind) for kind in (*KINDS, "bare", "hostile")]
    export(DatabaseSettings(), root / "server", "planets", runs, root / "figures", ("pareto",), root / "browser")
    return root


def test_every_link_of_every_page_leads_to_a_file(root: Path) -> None:
    folder = root / "browser"
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) == 2 + 8 * (2 + LATENTS) - (LATENTS - 8)
    for page in pages:
        for link in re.findall(r'(?:href|src|action|data-feature)="([^"]*)"', page.read_text()):
            place = unquote(link.partition("#")[0].partition("?")[0])
            assert not place.startswith(("/", "http")), (page, link)
            assert not place or (page.parent / place).is_file(), (page, link)


def test_nothing_can_be_changed_and_what_people_added_is_shown(root: Path) -> None:
    for page in (root / "browser").rglob("*.html"):
        assert 'method="post"' not in page.read_text()
    seventh = (root / "browser/crosscoder/checkpoints/7.html").read_text()
    assert "kept &lt;b&gt;" in seventh
    assert "bookmarked" in seventh
    data = json.loads((root / "browser/crosscoder/checkpoints/list.json").read_text())
    assert data["bookmarked"] == [7]
    assert data["tags"] == {"verbs": [7]}


def test_rows_and_words_are_those_of_the_database(root: Path) -> None:
    folder = root / "browser/crosscoder/checkpoints"
    rows = json.loads((folder / "rows-0.json").read_text())
    assert [re.search(r'id="f(\d+)"', row)[1] for row in rows] == [str(number) for number in range(LATENTS)]
    words, context = (json.loads((folder / f"{name}.json").read_text()) for name in ("words", "context"))
    with connect(DatabaseSettings(), root / "server") as database:
        run = visible_run(database, RunName("planets", "crosscoder", "checkpoints"))
        for word in [*list(words)[:20], "concept", "kept", "verbs"]:
            assert words[word] == find_features(database, run, Query(words=word)).tolist()
        for word in list(context)[:20]:
            together = sorted({*context[word], *words.get(word, [])})
            assert together == find_features(database, run, Query(words=word, in_context=True)).tolist()


def test_what_a_copy_cannot_answer_is_not_asked(root: Path) -> None:
    folder = root / "browser/crosscoder/checkpoints"
    assert "<form" in (folder / "index.html").read_text()
    assert 'class="filters' not in (folder / "scatter.html").read_text()


@pytest.mark.parametrize(("value", "short"), [(1_048_577.0, 1_048_577), (0.123456789, 0.123457), (np.nan, None)])
def test_steps_of_a_copy_keep_all_their_digits(value: float, short: float | None) -> None:
    assert _short(value) == short


def test_a_dictionary_may_be_called_as_a_folder_of_the_copy(tmp_path: Path) -> None:
    (tmp_path / "static/run").mkdir(parents=True)
    _copy_static(tmp_path / "static")
    assert {"run", "keys.js", "plotly.min.js"} <= {file.name for file in (tmp_path / "static").iterdir()}


def test_text_of_the_corpus_is_escaped(root: Path) -> None:
    folder = root / "browser/crosscoder/hostile"
    for file in [*folder.glob("*.html"), folder / "rows-0.json"]:
        assert HOSTILE not in file.read_text()
        assert "<script>alert" not in file.read_text()


def test_a_run_that_is_missing_is_one_line_and_leaves_the_old_copy(root: Path) -> None:
    before = sorted((root / "browser").rglob("*"))
    with pytest.raises(UserError, match="there is no run planets/crosscoder/missing"):
        runs = [("crosscoder", "missing")]
        export(DatabaseSettings(), root / "server", "planets", runs, root / "figures", (), root / "browser")
    assert sorted((root / "browser").rglob("*")) == before
