"""A figure as files: PDF and PNG that say what made them, and the table of what is drawn."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pandas as pd
from matplotlib.figure import Figure

from ontogeny.config.figures import FigureSettings, FiguresSettings, FigureStyle
from ontogeny.figures.caption import Caption
from ontogeny.figures.style import paper
from ontogeny.files import atomic, write_csv
from ontogeny.provenance import provenance

CREATOR = "Ontogeny"


def figure_kinds() -> dict[str, type[FigureSettings]]:
    """List the figures: those that the study has settings for, with the type of these."""
    kinds = {name: field.annotation for name, field in FiguresSettings.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, FigureSettings)}


def figure_module(name: str) -> ModuleType:
    """Import the module of a figure by its name; it has `draw` and `caption`."""
    return import_module(f"ontogeny.figures.{name}")


def write_figure(
    name: str, tables: list[Path], settings: FigureSettings, style: FigureStyle, out: Path, study: Path | None
) -> pd.DataFrame:
    """Draw a figure and write `<out>.pdf`, `<out>.png` and `<out>.csv`; the same tables give the same bytes.

    Args:
        name: name of the figure and of its module.
        tables: tables that the figure reads.
        settings: settings of this figure.
        style: what all figures share.
        out: path without a suffix.
        study: the study's `study.json`, or None.

    Returns:
        What is drawn.

    Raises:
        UserError: a table is missing, damaged, or has nothing to draw.
    """
    module = figure_module(name)
    with paper(style):
        figure, numbers = module.draw(tables, settings, style)
        _save(figure, out, module.caption(numbers), provenance(study))
    write_csv(out.with_name(f"{out.name}.csv"), numbers)
    return numbers


def _save(figure: Figure, out: Path, caption: Caption, made_by: dict[str, str]) -> None:
    document = {
        "Title": caption.title,
        "Subject": f"{caption.description} {caption.finding}",
        "Keywords": "; ".join(f"{key}: {value}" for key, value in made_by.items()),
        "Creator": CREATOR,
        "CreationDate": None,
    }
    picture = {"Software": CREATOR, **caption.metadata(), **made_by}
    for suffix, metadata in (("pdf", document), ("png", picture)):
        with atomic(out.with_name(f"{out.name}.{suffix}")) as temporary:
            figure.savefig(temporary, metadata=metadata)
