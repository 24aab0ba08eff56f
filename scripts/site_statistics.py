"""Measure mean, mean norm and scale of a site over all its training rows."""

from argparse import Namespace
from pathlib import Path

from ontogeny.activations.statistics import write_statistics
from ontogeny.command import command, run


def main(arguments: Namespace) -> dict[str, float]:
    """Write the statistics of one site."""
    return write_statistics(arguments.shards, arguments.out, arguments.study)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="all training shards of the site")
    parser.add_argument("--out", type=Path, required=True, help="statistics.json to write")
    run(parser, main)
