"""Tokenize a split of the corpus into contexts of fixed length."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.corpus import TokensSettings
from ontogeny.contexts import write_contexts


def main(arguments: Namespace) -> dict[str, float]:
    """Write the contexts of one split."""
    return write_contexts(
        arguments.settings,
        arguments.split,
        arguments.corpus,
        arguments.tokenizer,
        arguments.out,
        arguments.study,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument(
        "--settings", type=settings(TokensSettings), required=True, help="the study's `tokens`, as JSON"
    )
    parser.add_argument("--split", choices=("train", "heldout"), required=True, help="split of the corpus")
    parser.add_argument("--corpus", type=Path, required=True, help="manifest.json of the corpus")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 file to write")
    run(parser, main)
