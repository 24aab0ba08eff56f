"""Choose the token positions of one shard, and their order."""

from argparse import Namespace
from pathlib import Path

from ontogeny.activations.rows import write_rows
from ontogeny.command import command, run, settings
from ontogeny.config.activations import RowsSettings


def main(arguments: Namespace) -> dict[str, float]:
    """Write the rows file."""
    return write_rows(arguments.settings, arguments.tokens, arguments.out, arguments.study)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(RowsSettings), required=True, help="what decides the rows (JSON)")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens of the split")
    parser.add_argument("--out", type=Path, required=True, help="rows file to write, named after the shard")
    run(parser, main)
