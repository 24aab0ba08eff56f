"""The gallery: every figure with its words, its files and what made it, in one page that stands alone."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import figure_tables as made_up
import pytest
from default_tables import default_tables
from PIL import Image

from ontogeny.config.figures import FigureStyle
from ontogeny.errors import UserError
from ontogeny.figures.gallery import write_gallery
from ontogeny.figures.writer import figure_kinds, figure_module, write_figure

ROOT = Path(__file__).parents[1]
FIGURES = tuple(figure_kinds())


class Page(HTMLParser):
    """The page as a reader's browser sees it: tags that are closed in order, links, pictures, texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the figures of the default study."""
    folder = tmp_path_factory.mktemp("results")
    tables = default_tables(folder)
    for name in FIGURES:
        settings = figure_kinds()[name]()
        write_figure(
            name, tables[name], settings, FigureStyle(dpi=72), folder / "figures" / name, made_up.study(folder)
        )
    return folder / "figures"


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "figures"))


def test_every_figure_has_its_words_and_its_files(folder: Path) -> None:
    assert write_gallery(folder, FIGURES, folder / "index.html") == len(FIGURES)
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    for name in FIGURES:
        with Image.open(folder / f"{name}.png") as image:
            said, size = dict(image.info), image.size
        for key in ("Title", "Description", "Finding", "Run", "Tokens"):
            assert " ".join(said[key].split()) in page.text, (name, key)
        assert {f"{name}.{suffix}" for suffix in ("pdf", "png", "csv")} <= {link["href"] for link in page.all("a")}
        picture = next(picture for picture in page.all("img") if picture["src"] == f"{name}.png")
        assert (picture["width"], picture["height"]) == tuple(map(str, size))
        assert len(picture["alt"] or "") > 20
        assert (picture["alt"] or "").rstrip(".") in figure_module(name).DESCRIPTION
    assert page.text.count("study default · ") == len(FIGURES)
    assert page.text.count("commit deadbeef0123") == len(FIGURES)
    assert page.text.count("0123456789ab") == len(FIGURES), "the study's hash in the table"
    assert "torch " in page.text


def test_page_stands_alone(folder: Path) -> None:
    write_gallery(folder, FIGURES, folder / "index.html")
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    targets = [link["href"] or "" for link in page.all("a")] + [picture["src"] or "" for picture in page.all("img")]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for target in targets:
        assert target.removeprefix("#") in ids if target.startswith("#") else (folder / target).is_file(), target
    assert "://" not in text
    assert not page.all("script") + page.all("link")
    assert page.all("html") == [{"lang": "en"}]
    assert "prefers-color-scheme: dark" in text
    assert page.all("meta")[1]["content"] == "width=device-width, initial-scale=1"


def test_every_figure_has_the_same_size_of_text(folder: Path) -> None:
    write_gallery(folder, FIGURES, folder / "index.html")
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    for picture in page.all("img"):
        name = str(picture["src"]).removesuffix(".png")
        width = float(str(picture["style"]).removeprefix("width: ").removesuffix("px"))
        assert width / figure_kinds()[name]().width == pytest.approx(6, rel=0.01)


def test_words_are_escaped(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.json"
    bad = '<script>alert("1")</script>&'
    study.write_text(json.dumps({"study": bad, "hash": "h", "commit": "c", "seed": 0}))
    tables = default_tables(tmp_path)
    write_figure("pareto", tables["pareto"], figure_kinds()["pareto"](), FigureStyle(), folder / "pareto", study)
    write_gallery(folder, ["pareto"], folder / "index.html")
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert not page.all("script")
    assert page.text.count(bad) == 3, "title, heading and caption"


def test_figures_without_a_study_say_so(tmp_path: Path) -> None:
    tables = default_tables(tmp_path)
    write_figure("pareto", tables["pareto"], figure_kinds()["pareto"](), FigureStyle(), tmp_path / "pareto", None)
    write_gallery(tmp_path, ["pareto"], tmp_path / "index.html")
    assert "study unknown · " in Page((tmp_path / "index.html").read_text()).text


def test_page_elsewhere_leads_to_the_figures(folder: Path, tmp_path: Path) -> None:
    write_gallery(folder, FIGURES, tmp_path / "pages" / "index.html")
    page = Page((tmp_path / "pages" / "index.html").read_text(encoding="utf-8"))
    for picture in page.all("img"):
        assert (tmp_path / "pages" / str(picture["src"])).is_file()


def test_command_writes_the_same_bytes_every_time(folder: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gallery.py"), "--figures", *FIGURES, "--folder", "figures"]
    for out in ("figures/index.html", "figures/again.html"):
        subprocess.run([*command, "--out", out], check=True, cwd=folder.parent, capture_output=True)
    write_gallery(folder, FIGURES, folder / "here.html")
    pages = {(folder / f"{name}.html").read_bytes() for name in ("index", "again", "here")}
    assert len(pages) == 1
    assert not re.search(rb"\d\d:\d\d|202\d-", pages.pop()), "no clock time"


@pytest.mark.parametrize("suffix", ["pdf", "png", "csv"])
def test_missing_file_is_one_line(suffix: str, folder: Path) -> None:
    (folder / f"pareto.{suffix}").unlink()
    with pytest.raises(UserError, match=rf"pareto\.{suffix}: no such file; run the rule"):
        write_gallery(folder, FIGURES, folder / "index.html")
    assert not (folder / "index.html").exists()


def test_damaged_pictures_are_one_line(folder: Path) -> None:
    (folder / "pareto.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"pareto\.png: no picture; remove it"):
        write_gallery(folder, FIGURES, folder / "index.html")
    Image.new("RGB", (4, 4)).save(folder / "pareto.png")
    with pytest.raises(UserError, match=r"pareto\.png: its metadata lack 'Title'"):
        write_gallery(folder, FIGURES, folder / "index.html")
