"""Decide the types of features of a run: what their activation depends on."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.evaluation import FeatureTypeSettings
from ontogeny.evaluation.feature_types import write_feature_types


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table."""
    return write_feature_types(
        arguments.settings,
        arguments.dictionary,
        arguments.features,
        arguments.models,
        arguments.activations,
        arguments.shards,
        arguments.tokens,
        arguments.out,
        arguments.study,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument(
        "--settings", type=settings(FeatureTypeSettings), required=True, help="evaluation.feature_types as JSON"
    )
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--features", type=Path, required=True, help="folder of its features.parquet, samples.parquet")
    parser.add_argument("--models", type=Path, required=True, help="folder of all checkpoints")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the rows and shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--tokens", type=Path, required=True, help="contexts of the heldout split")
    parser.add_argument("--out", type=Path, required=True, help="table to write, feature_types.parquet")
    run(parser, main)
