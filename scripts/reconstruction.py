"""Measure how well a dictionary reconstructs heldout activations."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.reconstruction import write_reconstruction


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table of metrics."""
    return write_reconstruction(arguments.dictionary, arguments.activations, arguments.shards, arguments.out)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--out", type=Path, required=True, help="table to write, reconstruction.csv")
    run(parser, main)
