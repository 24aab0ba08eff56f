"""Write what a planted model holds: a table of its features, or their directions at a hook."""

from argparse import Namespace
from pathlib import Path

from ontogeny.activations.planted_features import write_directions, write_truth
from ontogeny.command import command, run, settings
from ontogeny.config.models import PlantedModel


def main(arguments: Namespace) -> dict[str, float]:
    """Write the table, or the directions if a hook is named."""
    if arguments.hook is None:
        return write_truth(arguments.settings, arguments.out)
    return write_directions(arguments.settings, arguments.hook, arguments.out, arguments.study)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(PlantedModel), required=True, help="the model, as JSON")
    parser.add_argument("--hook", help="hook point, by its transformer-lens name, whose directions are written")
    parser.add_argument("--out", type=Path, required=True, help="the table, truth.csv, or <hook>.safetensors")
    run(parser, main)
