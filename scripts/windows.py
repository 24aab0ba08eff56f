"""Choose windows of text in which features of a run fire, or do not, for questions to a language model."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.evaluation import FeatureTypeSettings
from ontogeny.config.interpretation import WindowSettings
from ontogeny.interpretation.window_table import write_windows


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table."""
    return write_windows(
        arguments.settings,
        arguments.choice,
        arguments.dictionary,
        arguments.features,
        arguments.activations,
        arguments.shards,
        arguments.tokens,
        arguments.tokenizer,
        arguments.out,
        arguments.study,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(WindowSettings), required=True, help="WindowSettings as JSON")
    parser.add_argument(
        "--choice",
        type=settings(FeatureTypeSettings),
        required=True,
        help="which features: FeatureTypeSettings as JSON",
    )
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--features", type=Path, required=True, help="its features.parquet")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the rows and shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--tokens", type=Path, required=True, help="contexts of the heldout split")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the study's tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    run(parser, main)
