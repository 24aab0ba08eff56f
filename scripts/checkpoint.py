"""Bring a checkpoint that exists already, in a local folder or on the hub, into the study."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, union_settings
from ontogeny.config.models import CheckpointSource
from ontogeny.language_model.sources import bring_checkpoint


def main(arguments: Namespace) -> dict[str, float]:
    """Write the folder of one checkpoint."""
    return bring_checkpoint(
        arguments.settings, arguments.step, arguments.tokenizer, arguments.out.parent, arguments.study, arguments.file
    )


if __name__ == "__main__":
    parser = command(__doc__)
    kind = union_settings(CheckpointSource, "CheckpointSource")
    parser.add_argument("--settings", type=kind, required=True, help="where the model is, as JSON")
    parser.add_argument("--step", type=int, required=True, help="step of the checkpoint")
    parser.add_argument("--file", type=Path, nargs="?", help="its GGUF file, if it has one; looked up if left out")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the study's tokenizer")
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint.json to write; its folder is the checkpoint"
    )
    run(parser, main)
