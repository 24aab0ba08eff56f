"""Compare two models by the features of a crosscoder: relative norms, cosines and latent scaling."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.model_diff import write_model_diff


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table."""
    return write_model_diff(
        arguments.dictionary, arguments.features, arguments.activations, arguments.shards, arguments.out
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--features", type=Path, required=True, help="features.parquet of the run")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--out", type=Path, required=True, help="table to write, model_diff.csv")
    run(parser, main)
