"""Train all runs of a dictionary's sweep that have one seed, side by side on the same batches."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.dictionaries import SweepSettings
from ontogeny.crosscoder.sweep_trainer import train_sweep


def main(arguments: Namespace) -> dict[str, float]:
    """Train the runs that the arguments describe."""
    runs = list(arguments.settings.runs([arguments.seed]).values())
    return train_sweep(
        runs, arguments.activations, arguments.state, arguments.out, arguments.study, arguments.fingerprint
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(SweepSettings), required=True, help="the sweep, as JSON")
    parser.add_argument("--seed", type=int, required=True, help="seed of the runs")
    parser.add_argument("--activations", type=Path, required=True, help="folder of all sites' shards")
    parser.add_argument("--state", type=Path, required=True, help="folder of the training state, for this sweep alone")
    parser.add_argument("--fingerprint", default="", help="hash of the code; a state saved under another is dropped")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dictionary, for the folders of the runs")
    run(parser, main)
