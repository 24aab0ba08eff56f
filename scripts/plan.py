"""Say what a study will cost before anything starts: tokens, disk, FLOP, and hours at a given rate."""

import sys
from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.config.load import read_study
from ontogeny.plan import plan_text


def main(arguments: Namespace) -> None:
    """Write the plan to standard output."""
    sys.stdout.write(plan_text(read_study(arguments.config), arguments.rate) + "\n")


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the study (default: config.yaml)")
    parser.add_argument("--rate", type=float, default=0.1, help="TFLOP/s that the machine sustains (default: 0.1)")
    run(parser, main)
