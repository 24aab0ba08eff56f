"""Write the corpus: documents of a source, split by document into train and heldout."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, union_settings
from ontogeny.config.corpus import CorpusSettings
from ontogeny.corpus import write_corpus


def main(arguments: Namespace) -> dict[str, float]:
    """Write the corpus's folder."""
    return write_corpus(arguments.settings, arguments.seed, arguments.out, arguments.study)


if __name__ == "__main__":
    parser = command(__doc__)
    kind = union_settings(CorpusSettings, "CorpusSettings")
    parser.add_argument("--settings", type=kind, required=True, help="the study's `corpus`, as JSON")
    parser.add_argument("--seed", type=int, required=True, help="seed of the study")
    parser.add_argument("--out", type=Path, required=True, help="manifest.json to write; its folder becomes the corpus")
    run(parser, main)
