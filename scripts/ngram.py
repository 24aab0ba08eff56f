"""Compare the checkpoints of a language model with the unigrams and bigrams of the training text."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.evaluation import NgramSettings
from ontogeny.evaluation.ngram import write_ngram


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table."""
    return write_ngram(
        arguments.model,
        arguments.steps,
        arguments.models,
        arguments.tokens,
        arguments.heldout,
        arguments.settings,
        arguments.out,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(NgramSettings), required=True, help="evaluation.ngram as JSON")
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--steps", type=int, nargs="+", required=True, help="its checkpoints")
    parser.add_argument("--models", type=Path, required=True, help="folder of all checkpoints")
    parser.add_argument("--tokens", type=Path, required=True, help="contexts of the training split, which are counted")
    parser.add_argument("--heldout", type=Path, required=True, help="contexts of the heldout split")
    parser.add_argument("--out", type=Path, required=True, help="table to write, ngram-<model>.csv")
    run(parser, main)
