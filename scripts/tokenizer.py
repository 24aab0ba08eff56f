"""Train a tokenizer on the corpus, or copy one that exists."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, union_settings
from ontogeny.config.corpus import TokenizerSettings
from ontogeny.tokenizer_training import write_tokenizer


def main(arguments: Namespace) -> dict[str, float]:
    """Write the tokenizer's folder."""
    return write_tokenizer(
        arguments.settings, arguments.corpus, arguments.out, arguments.study, arguments.file, arguments.threads
    )


if __name__ == "__main__":
    parser = command(__doc__)
    kind = union_settings(TokenizerSettings, "TokenizerSettings")
    parser.add_argument("--settings", type=kind, required=True, help="the study's `tokenizer`, as JSON")
    parser.add_argument("--corpus", type=Path, required=True, help="manifest.json of the corpus")
    parser.add_argument("--file", type=Path, nargs="?", help="its GGUF file, if it has one; looked up if left out")
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write; its folder is the tokenizer")
    run(parser, main)
