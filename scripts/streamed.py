"""Say how a streamed study reads its activations, in place of shards."""

import os
from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.streamed import StreamedSettings
from ontogeny.files import write_json


def main(arguments: Namespace) -> None:
    """Write one small file, with paths from where it is."""
    changes = {name: os.path.relpath(getattr(arguments, name), arguments.out.parent) for name in ("models", "tokens")}
    changes["code"] = arguments.code
    write_json(arguments.out, arguments.settings.model_copy(update=changes).model_dump(mode="json"))


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(StreamedSettings), required=True, help="how to read (JSON)")
    parser.add_argument("--code", required=True, help="hash of the code that reads activations")
    parser.add_argument("--models", type=Path, required=True, help="folder of all checkpoints")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the tokens of both splits")
    parser.add_argument("--out", type=Path, required=True, help="streamed.json to write")
    run(parser, main)
