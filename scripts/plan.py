"""Say what a study will cost before anything starts: tokens, disk, FLOP, and hours at a given rate."""

import sys
from argparse import Namespace
from pathlib import Path

import yaml

from ontogeny.command import command, run
from ontogeny.config.load import load_study
from ontogeny.plan import plan_text


def main(arguments: Namespace) -> None:
    """Write the plan to standard output."""
    study = load_study(yaml.safe_load(arguments.config.read_text(encoding="utf-8")), str(arguments.config))
    sys.stdout.write(plan_text(study, arguments.rate) + "\n")


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the study (default: config.yaml)")
    parser.add_argument("--rate", type=float, default=0.1, help="TFLOP/s that the machine sustains (default: 0.1)")
    run(parser, main)
