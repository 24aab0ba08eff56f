"""Probe features of a run at every site: can they be read where their decoder norms are small?"""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.evaluation import ProbeSettings
from ontogeny.evaluation.probes import write_probes


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table."""
    return write_probes(
        arguments.settings,
        arguments.dictionary,
        arguments.features,
        arguments.activations,
        arguments.train,
        arguments.heldout,
        arguments.out,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(ProbeSettings), required=True, help="evaluation.probes as JSON")
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--features", type=Path, required=True, help="features.parquet of the run")
    parser.add_argument("--activations", type=Path, required=True, help="folder of the shards of all sites")
    parser.add_argument("--train", nargs="+", required=True, help="names of the training shards")
    parser.add_argument("--heldout", nargs="+", required=True, help="names of the heldout shards")
    parser.add_argument("--out", type=Path, required=True, help="table to write, probes.csv")
    run(parser, main)
