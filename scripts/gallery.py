"""Write the page that shows the study's figures."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.figures.gallery import write_gallery


def main(arguments: Namespace) -> dict[str, float]:
    """Do the work of the command."""
    return {"figures": write_gallery(arguments.folder, arguments.figures, arguments.out)}


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--figures", nargs="+", required=True, metavar="NAME", help="names of the figures, in order")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    run(parser, main)
