"""Measure how much of what was planted the runs of a sweep have found, all of them in one table."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.evaluation.superposition import write_superposition


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table of metrics."""
    return write_superposition(
        arguments.dictionary,
        arguments.runs,
        arguments.model,
        arguments.hook,
        arguments.directions,
        arguments.activations,
        arguments.shards,
        arguments.out,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the dictionary")
    parser.add_argument("--runs", nargs="+", required=True, help="names of its runs")
    parser.add_argument("--model", required=True, help="the planted model of its sites")
    parser.add_argument("--hook", required=True, help="the hook point of its sites")
    parser.add_argument("--directions", type=Path, required=True, help="planted directions at this hook")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the shards of all sites")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--out", type=Path, required=True, help="table to write, superposition.csv")
    run(parser, main)
