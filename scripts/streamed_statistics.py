"""Measure mean, mean norm and scale of every site of a checkpoint, whose activations are streamed."""

from argparse import Namespace
from pathlib import Path

from ontogeny.activations.statistics import write_streamed_statistics
from ontogeny.command import command, run
from ontogeny.sites import Site


def main(arguments: Namespace) -> dict[str, float]:
    """Write one file for each hook."""
    model, _, step = arguments.checkpoint.rpartition("/step")
    sites = [Site(model, int(step), hook) for hook in arguments.hooks]
    return write_streamed_statistics(arguments.activations, sites, arguments.shards, arguments.study)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--checkpoint", required=True, help="model and step, such as neox/step512")
    parser.add_argument("--hooks", nargs="+", required=True, help="hook points by their transformer-lens names")
    parser.add_argument("--activations", type=Path, required=True, help="folder of streamed.json, rows and statistics")
    parser.add_argument("--shards", nargs="+", required=True, help="names of all training shards")
    run(parser, main)
