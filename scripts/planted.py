"""Make one shard of one site of a planted model, without any language model."""

from argparse import Namespace
from pathlib import Path

from ontogeny.activations.planted import write_planted
from ontogeny.command import command, run, settings
from ontogeny.config.models import PlantedModel
from ontogeny.sites import Site


def main(arguments: Namespace) -> dict[str, float]:
    """Write one shard."""
    site = Site(arguments.model, arguments.step, arguments.hook)
    return write_planted(arguments.settings, site, arguments.rows, arguments.dtype, arguments.out, arguments.study)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(PlantedModel), required=True, help="the model, as JSON")
    parser.add_argument("--dtype", choices=("float16", "int8"), required=True, help="type on disk")
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--step", type=int, required=True, help="step of the checkpoint")
    parser.add_argument("--hook", required=True, help="hook point by its transformer-lens name")
    parser.add_argument("--rows", type=Path, required=True, help="rows file, named after the shard")
    parser.add_argument("--out", type=Path, required=True, help="shard to write")
    run(parser, main)
