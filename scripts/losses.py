"""Sum next-token losses of a language model with reconstructions for activations, on a part of the contexts."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.evaluation import NllSettings
from ontogeny.evaluation.nll import write_losses


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table of sums."""
    return write_losses(
        arguments.dictionary,
        arguments.model,
        arguments.models,
        arguments.tokens,
        arguments.activations,
        arguments.settings,
        arguments.part,
        arguments.keep_first_position,
        arguments.out,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(NllSettings), required=True, help="evaluation.nll as JSON")
    parser.add_argument("--part", type=int, default=0, help="number of the part, from 0 (default: 0)")
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", required=True, help="model that is measured, one of the dictionary's sites")
    parser.add_argument("--models", type=Path, required=True, help="folder of all checkpoints")
    parser.add_argument("--tokens", type=Path, required=True, help="contexts of the heldout split")
    parser.add_argument(
        "--keep-first-position", action="store_true", help="the dictionary was trained on position 0 of contexts too"
    )
    parser.add_argument("--activations", type=Path, required=True, help="folder of all sites, for their means")
    parser.add_argument("--out", type=Path, required=True, help="table of sums to write")
    run(parser, main)
