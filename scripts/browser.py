"""Write a copy of the feature browser that any web server can show."""

from argparse import Namespace
from pathlib import Path

from ontogeny.browser.export import export
from ontogeny.command import command, run, settings
from ontogeny.config.database import DatabaseSettings


def main(arguments: Namespace) -> dict[str, float]:
    """Export the runs."""
    runs = [(dictionary, name) for dictionary, name in (text.split("/", 1) for text in arguments.runs)]
    return export(
        arguments.settings,
        arguments.home,
        arguments.name,
        runs,
        arguments.figures,
        arguments.names,
        arguments.out,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(DatabaseSettings), required=True, help="DatabaseSettings as JSON")
    parser.add_argument("--home", type=Path, required=True, help="folder of the embedded server's files")
    parser.add_argument("--name", required=True, help="name of the study")
    parser.add_argument("--runs", nargs="+", required=True, help="runs to export, each <dictionary>/<run>")
    parser.add_argument("--figures", type=Path, required=True, help="folder of the study's figures")
    parser.add_argument("--names", nargs="*", default=[], help="figures to show, in order")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    run(parser, main)
