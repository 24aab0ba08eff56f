"""Join sums of losses to what a dictionary costs a language model: next-token loss, and the share recovered."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.losses import write_nll


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table of metrics."""
    return write_nll(arguments.dictionary, arguments.losses, arguments.out)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--losses", type=Path, nargs="+", required=True, metavar="TABLE", help="sums, part by part")
    parser.add_argument("--out", type=Path, required=True, help="table to write, nll-<model>.csv")
    run(parser, main)
