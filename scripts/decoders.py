"""Describe the decoder of every feature: how it turns over sites, its nearest features, and the tokens it promotes."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.decoder_tables import write_decoders


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table."""
    return write_decoders(
        arguments.dictionary,
        arguments.features,
        arguments.models,
        arguments.tokenizer,
        arguments.out,
        arguments.study,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--features", type=Path, required=True, help="features.parquet of the run")
    parser.add_argument("--models", type=Path, help="folder of all checkpoints; left out where no site has logits")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, with its configuration beside")
    parser.add_argument("--out", type=Path, required=True, help="table to write, decoders.parquet")
    run(parser, main)
