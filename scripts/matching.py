"""Match the features of two runs, and compare when these emerge."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.matching_tables import write_matching


def main(arguments: Namespace) -> dict[str, float]:
    """Write two tables."""
    return write_matching(
        arguments.dictionary,
        arguments.features,
        arguments.other,
        arguments.activations,
        arguments.shards,
        arguments.cosine,
        arguments.out,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--cosine", type=float, required=True, help="evaluation.matching.cosine")
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run that is the reference")
    parser.add_argument("--features", type=Path, required=True, help="features.parquet of that run")
    parser.add_argument("--other", type=Path, required=True, help="folder of the run that is compared with it")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--out", type=Path, required=True, help="folder to write pairs.csv and agreement.csv to")
    run(parser, main)
