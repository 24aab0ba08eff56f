"""Measure how much of what was planted in a model a dictionary has found."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.recovery import write_recovery


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table of metrics."""
    return write_recovery(
        arguments.dictionary,
        arguments.model,
        arguments.directions,
        arguments.activations,
        arguments.shards,
        arguments.threshold,
        arguments.out,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--threshold", type=float, required=True, help="tau, evaluation.features.emergence_threshold")
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", required=True, help="the planted model, one of the dictionary's sites")
    parser.add_argument("--directions", type=Path, required=True, help="folder of its planted directions")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--out", type=Path, required=True, help="table to write, recovery-<model>.csv")
    run(parser, main)
