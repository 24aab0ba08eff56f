"""Read one shard of a checkpoint at every hook, in one forward pass."""

from argparse import Namespace
from pathlib import Path

from ontogeny.activations.harvest import harvest
from ontogeny.command import command, run, settings
from ontogeny.config.activations import HarvestSettings


def main(arguments: Namespace) -> dict[str, float]:
    """Write one shard for each hook."""
    return harvest(
        arguments.settings,
        arguments.checkpoint,
        arguments.tokens,
        arguments.rows,
        arguments.hooks,
        arguments.out,
        arguments.study,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(HarvestSettings), required=True, help="how to read (JSON)")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint.json of the checkpoint")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens of the split")
    parser.add_argument("--rows", type=Path, required=True, help="rows file, named after the shard")
    parser.add_argument("--hooks", nargs="+", required=True, help="hook points by their transformer-lens names")
    parser.add_argument("--out", type=Path, required=True, help="folder to write <hook>/<shard>.h5 into")
    run(parser, main)
