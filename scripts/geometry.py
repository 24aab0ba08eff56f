"""Measure how the decoders of a dictionary lie to each other, over sites and among features."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.geometry_tables import write_geometry


def main(arguments: Namespace) -> dict[str, float]:
    """Write four tables."""
    return write_geometry(arguments.dictionary, arguments.features, arguments.out)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--features", type=Path, required=True, help="features.parquet of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the tables to")
    run(parser, main)
