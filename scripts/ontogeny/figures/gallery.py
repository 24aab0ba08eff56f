"""The page that shows the figures: one HTML file beside them, its words taken from the pictures themselves."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from ontogeny.errors import UserError
from ontogeny.figures.gallery_page import PAGE
from ontogeny.files import atomic

WORDS = ("Title", "Description", "Finding", "Run", "Tokens")
"""What every picture says of itself in its metadata; `study`, `study_hash`, `commit` and more say what made it."""

PIXELS_PER_MM = 6
"""Width of a figure on the page: text of 7 points is 15 pixels high, in every figure."""

WIDE = 120
"""Millimetres above which a figure scrolls sideways on a narrow screen instead of becoming too small to read."""

UNKNOWN = "unknown"


class Picture(NamedTuple):
    """A figure as the page shows it."""

    name: str
    """Name of its files."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    millimetres: float
    """Width on paper."""
    says: dict[str, str]
    """Metadata: the words of the caption, and what made the figure."""


def write_gallery(folder: Path, names: Sequence[str], out: Path) -> int:
    """Write the page; the same figures give the same bytes.

    Args:
        folder: folder of the figures.
        names: figures in order; each has a PDF, a PNG and a CSV file.
        out: page to write; links to figures are relative to it.

    Returns:
        Number of figures.

    Raises:
        UserError: a file is missing, is no picture, or says nothing of itself.
    """
    pictures = [read_picture(folder, name) for name in names]
    place = Path(os.path.relpath(folder, out.parent)).as_posix()
    text = lay_out(pictures, "" if place == "." else f"{place}/")
    with atomic(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return len(pictures)


def read_picture(folder: Path, name: str) -> Picture:
    """Read the size and the words of a figure from its PNG file.

    Raises:
        UserError: a file of the figure is missing, is no picture, or says nothing of itself.
    """
    for suffix in ("pdf", "png", "csv"):
        if not (folder / f"{name}.{suffix}").is_file():
            raise UserError(f"{folder}/{name}.{suffix}: no such file; run the rule of the figure {name!r}")
    file = folder / f"{name}.png"
    try:
        with Image.open(file) as image:
            width, height = image.size
            dots = float(image.info.get("dpi", (96, 96))[0])
            says = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    except UnidentifiedImageError:
        raise UserError(f"{file}: no picture; remove it and run the rule of the figure {name!r} again") from None
    missing = [key for key in WORDS if key not in says]
    if missing:
        raise UserError(f"{file}: its metadata lack {missing[0]!r}; draw it with scripts/figure.py")
    return Picture(name, width, height, width / dots * 25.4, says)


def lay_out(pictures: Sequence[Picture], place: str) -> str:
    """Lay the page out.

    Args:
        pictures: figures in order.
        place: path of their folder from the page, empty or with a final slash.
    """
    words = [picture.says for picture in pictures]
    study = next((says["study"] for says in words if "study" in says), None)
    return PAGE.substitute(
        title=escape(f"Ontogeny: study {study}" if study else "Ontogeny"),
        contents="\n".join(
            f'<li><a href="#{escape(picture.name)}">{escape(picture.says["Title"])}</a></li>' for picture in pictures
        ),
        figures="\n".join(_figure(picture, place) for picture in pictures),
        rows="\n".join(_row(picture) for picture in pictures),
        versions=escape(
            next((picture.says["versions"] for picture in pictures if "versions" in picture.says), UNKNOWN)
        ),
    )


def _figure(picture: Picture, place: str) -> str:
    name, says = escape(picture.name), {key: escape(value) for key, value in picture.says.items()}
    stem = escape(f"{place}{picture.name}")
    alt = says["Description"].split(". ")[0].rstrip(".")
    facts = [
        f"study {says.get('study', UNKNOWN)}",
        says["Run"],
        says["Tokens"],
        f"commit {says.get('commit', UNKNOWN)}",
    ]
    links = ", ".join(f'<a href="{stem}.{suffix}">{suffix.upper()}</a>' for suffix in ("pdf", "png", "csv"))
    return f"""<section aria-labelledby="{name}">
<h2 id="{name}">{says["Title"]}</h2>
<figure class="{"wide" if picture.millimetres > WIDE else "narrow"}">
<div class="paper" tabindex="0" role="group" aria-label="{says["Title"]}">
<a href="{stem}.pdf"><img src="{stem}.png" alt="{alt}." width="{picture.width}" height="{picture.height}" style="width: {picture.millimetres * PIXELS_PER_MM:.0f}px"></a>
</div>
<figcaption>
<p class="finding">{says["Finding"]}</p>
<p>{says["Description"]}</p>
<p class="facts">{" · ".join(fact for fact in facts if fact)} · {links}</p>
</figcaption>
</figure>
</section>"""  # noqa: E501


def _row(picture: Picture) -> str:
    values = [
        picture.says.get(key, UNKNOWN) or UNKNOWN for key in ("Run", "Tokens", "study_hash", "commit", "study_seed")
    ]
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f'<tr><th scope="row"><a href="#{escape(picture.name)}">{escape(picture.name)}</a></th>{cells}</tr>'
