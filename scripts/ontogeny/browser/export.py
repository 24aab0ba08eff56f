"""A copy of the browser that needs no server of its own: a folder of files, for the supplement of a paper.

Its pages are those of the server, made by the same templates. What a server answers, filters, orders and words, is
answered by a script from the same columns and terms.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import plotly
from numpy.typing import NDArray
from pymongo.database import Database

from ontogeny.browser.feature_list import ListPage, column_extents, list_page
from ontogeny.browser.feature_page import feature_page
from ontogeny.browser.figures import SUFFIXES, figures_page
from ontogeny.browser.head import RunHead, run_head
from ontogeny.browser.home import HomePage, home_page
from ontogeny.browser.links import SECTIONS, Links, Section
from ontogeny.browser.parameters import ListQuery
from ontogeny.browser.rendering import STATIC, Renderer
from ontogeny.browser.scatter import chosen_quantities, scatter_page
from ontogeny.command import progress
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.columns import WORDS
from ontogeny.database.connect import Document, connect
from ontogeny.database.documents import TERMS, Edit, RunName, Term
from ontogeny.database.edits import edits_of
from ontogeny.database.query import edit_words, find_features, read_columns
from ontogeny.database.reading import validated, visible_run
from ontogeny.database.terms import term_features
from ontogeny.files import atomic_folder

ROWS_AT_ONCE: Literal[100] = 100
"""Rows of a list in one file, as many as the largest page shows."""
DIGITS = 6
"""Significant digits of the values by which features are ordered and filtered."""


class FileLinks(Links):
    """Addresses of files, from a page that is some folders down."""

    sections = tuple(section for section in SECTIONS if section.name in ("", "scatter"))
    scripted = "exported_list.js"

    def __init__(self, depth: int) -> None:
        self._up = "../" * depth

    def home(self) -> str:
        """Lead to all runs."""
        return f"{self._up}index.html"

    def static(self, name: str) -> str:
        """Lead to a script or a stylesheet."""
        return f"{self._up}static/{name}"

    def section(self, run: RunName, section: Section) -> str:
        """Lead to a page of a run."""
        return f"{self._run(run)}{section.name or 'index'}.html"

    def page(self, run: RunName, name: str, query: str = "") -> str:
        """Lead to a page of a run by name; lists and features have scripts that answer a query."""
        return f"{self._run(run)}{name}.html" + (f"?{query}" if query else "")

    def figures(self) -> str:
        """Lead to the figures of the study."""
        return f"{self._up}figures.html"

    def figure(self, name: str, suffix: str) -> str:
        """Lead to a file of a figure."""
        return f"{self._up}figures/{quote(name)}.{suffix}"

    def features(self, run: RunName, query: str = "") -> str:
        """Lead to the list of features that a query finds."""
        return self.page(run, "index", query)

    def feature(self, run: RunName, feature: int, query: str = "") -> str:
        """Lead to a feature."""
        return self.page(run, str(feature), query)

    def random(self, run: RunName, query: str = "") -> None:
        """Lead nowhere: the script of the list draws a feature."""

    def edit(self, run: RunName, feature: int, query: str = "") -> None:
        """Lead nowhere: nothing can be changed."""

    def _run(self, run: RunName) -> str:
        return self._up + "".join(f"{quote(part, safe='')}/" for part in run[1:])


def export(
    settings: DatabaseSettings,
    home: Path,
    study: str,
    runs: Sequence[tuple[str, str]],
    figures: Path,
    names: Sequence[str],
    out: Path,
) -> dict[str, float]:
    """Write the folder, whole or not at all.

    Args:
        settings: which database.
        home: folder of the embedded server's files.
        study: name of the study.
        runs: dictionary and run of each that is exported.
        figures: folder of the study's figures.
        names: figures to be shown, in order.
        out: the folder.

    Returns:
        Pages of features.

    Raises:
        UserError: a run is not in the database, or the database cannot be used.
    """
    renderer = Renderer(FileLinks(0))
    pages = 0
    with connect(settings, home) as database, atomic_folder(out) as folder:
        heads = [run_head(visible_run(database, RunName(study, *run))) for run in runs]
        for head in heads:
            pages += _write_run(database, head, renderer, folder / head.name.dictionary / head.name.run)
        shown = _only(home_page(database, study), {head.name for head in heads})
        _write(folder / "index.html", renderer.page("home.html", page=shown))
        _copy_static(folder / "static")
        _write_figures(renderer, study, figures, names, folder)
    return {"pages": pages}


def _write_run(database: Database[Document], head: RunHead, renderer: Renderer, folder: Path) -> int:
    """Write the pages of a run; return how many features have one."""
    renderer = renderer.linking(FileLinks(2))
    folder.mkdir(parents=True)
    query, latents = ListQuery(), head.run.latents
    extents = column_extents(database, head)
    first = list_page(database, head, query, extents, csrf="")
    _write(folder / "index.html", renderer.page("list.html", page=first))
    scatter = scatter_page(database, head, query, *chosen_quantities([], head)) if len(head.quantities) > 1 else None
    if scatter:
        _write(folder / "scatter.html", renderer.page("scatter.html", page=scatter))
    for number, rows in enumerate(_rows(database, head, extents, first.promotes, renderer)):
        _write(folder / f"rows-{number}.json", json.dumps(rows))
    _write(folder / "list.json", json.dumps(_list_data(database, head)))
    edits = edits_of(database, head.run)
    _write_words(folder / "words.json", _words(database, head, ("text", "promoted", "interpretation"), edits))
    _write_words(folder / "context.json", _words(database, head, ("context",), ()))
    found_N = find_features(database, head.run, query.of_database())
    for feature in progress(range(latents), latents, "features"):
        page = feature_page(database, head, feature, query, found_N, csrf="")
        _write(folder / f"{feature}.html", renderer.page("feature.html", page=page))
    return latents


def _rows(
    database: Database[Document],
    head: RunHead,
    extents: dict[str, tuple[float, float] | None],
    promotes: bool,
    renderer: Renderer,
) -> Iterator[list[str]]:
    """Yield the rows of the list as they stand on a page, by number, some at a time."""
    for page in range(1, -(-head.run.latents // ROWS_AT_ONCE) + 1):
        query = ListQuery(dead="show", size=ROWS_AT_ONCE, page=page)
        shown: ListPage = list_page(database, head, query, extents, csrf="")
        same = {"page": shown, "head": head, "query": ListQuery(), "promotes": promotes}
        yield [renderer.page("row.html", **same, row=row) for row in shown.rows]


def _list_data(database: Database[Document], head: RunHead) -> dict[str, Any]:
    """Gather what lists are ordered and filtered by."""
    names = [*head.quantities, *(name for name in WORDS if name in head.run.columns), "dead"]
    columns = read_columns(database, head.run, names)
    edits = edits_of(database, head.run)
    return {
        "features": head.run.latents,
        "rows": ROWS_AT_ONCE,
        "columns": {name: [_short(value) for value in column.values] for name, column in columns.items()},
        "names": {name: list(column.names) for name, column in columns.items() if column.names},
        "bookmarked": [edit.feature for edit in edits if edit.bookmark],
        "tags": {tag: [edit.feature for edit in edits if tag in edit.tags] for edit in edits for tag in edit.tags},
    }


def _words(
    database: Database[Document], head: RunHead, scopes: Sequence[str], edits: Sequence[Edit]
) -> dict[str, NDArray[np.int32]]:
    """Gather the words of some scopes and of edits, each with the features that it leads to, ascending.

    They are held as the database packs them: of 100,000 features there are tens of millions.
    """
    found: dict[str, NDArray[np.int32]] = {}

    def add(word: str, features_N: NDArray[np.int32]) -> None:
        found[word] = np.union1d(found[word], features_N) if word in found else features_N

    for scope in scopes:
        condition = {"content": head.run.content, "term": {"$gte": f"{scope}/", "$lt": f"{scope}0"}}
        for document in database[TERMS].find(condition):
            term = validated(Term, document)
            add(term.term.removeprefix(f"{scope}/"), term_features(term).astype(np.int32))
    for edit in edits:
        for word in edit_words(edit):
            add(word, np.array([edit.feature], dtype=np.int32))
    return found


def _write_words(file: Path, words: dict[str, NDArray[np.int32]]) -> None:
    """Write words as one JSON object, word by word."""
    with file.open("w", encoding="utf-8") as text:
        text.write("{")
        for number, word in enumerate(sorted(words)):
            text.write(f"{',' if number else ''}{json.dumps(word)}:{json.dumps(words[word].tolist())}")
        text.write("}")


def _short(value: float) -> float | int | None:
    """Write a value with few digits; whole numbers, such as steps, keep all of theirs."""
    if np.isnan(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.{DIGITS}g}")


def _only(page: HomePage, names: set[RunName]) -> HomePage:
    studies = ((study, tuple(row for row in rows if row.name in names)) for study, rows in page.studies)
    return HomePage(page.study, tuple((study, rows) for study, rows in studies if rows))


def _copy_static(folder: Path) -> None:
    """Copy scripts and styles, and plotly.js from its package; beside the runs of a dictionary of the same name."""
    shutil.copytree(STATIC, folder, dirs_exist_ok=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", folder)


def _write_figures(renderer: Renderer, study: str, figures: Path, names: Sequence[str], folder: Path) -> None:
    page = figures_page(study, figures, names)
    _write(folder / "figures.html", renderer.page("figures.html", page=page))
    (folder / "figures").mkdir(exist_ok=True)
    for picture in page.pictures:
        for suffix in SUFFIXES:
            shutil.copy(figures / f"{picture.name}.{suffix}", folder / "figures")


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
