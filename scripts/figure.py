"""Draw one figure from tables, as PDF, PNG and the table of the numbers drawn."""

from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.figures import FigureStyle
from ontogeny.errors import UserError
from ontogeny.figures.writer import figure_kinds, write_figure


def main(arguments: Namespace) -> dict[str, float]:
    """Do the work of the command."""
    try:
        chosen = settings(figure_kinds()[arguments.figure])(arguments.settings)
    except ArgumentTypeError as error:
        raise UserError(f"--settings: {error}") from None
    numbers = write_figure(arguments.figure, arguments.tables, chosen, arguments.style, arguments.out, arguments.study)
    return {"numbers": len(numbers)}


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--figure", choices=sorted(figure_kinds()), required=True, help="name of the figure")
    parser.add_argument("--settings", default="{}", help="JSON of the figure's settings (default: the defaults)")
    parser.add_argument("--style", type=settings(FigureStyle), default=FigureStyle(), help="JSON of figures.style")
    parser.add_argument("--tables", type=Path, nargs="+", required=True, metavar="TABLE", help="tables that it reads")
    parser.add_argument("--out", type=Path, required=True, help="path of the files, without a suffix")
    run(parser, main)
