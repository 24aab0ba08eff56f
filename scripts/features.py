"""Describe every feature of a dictionary, and keep the heldout samples where it fires most."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.evaluation import FeatureSettings
from ontogeny.evaluation.features import write_features


def main(arguments: Namespace) -> dict[str, float]:
    """Write two tables."""
    return write_features(
        arguments.settings,
        arguments.dictionary,
        arguments.activations,
        arguments.shards,
        arguments.tokens,
        arguments.tokenizer,
        arguments.out,
        arguments.study,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(FeatureSettings), required=True, help="evaluation.features as JSON")
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the rows and shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--tokens", type=Path, required=True, help="contexts of the heldout split")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the study's tokenizer.json")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write features.parquet and samples.parquet to"
    )
    run(parser, main)
