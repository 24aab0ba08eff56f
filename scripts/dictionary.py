"""Train one run of a dictionary: a crosscoder over the activations of its sites.

Under torchrun, the sites are divided among the processes.
"""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.dictionaries import RunSettings
from ontogeny.crosscoder.joining import joined
from ontogeny.crosscoder.trainer import train


def main(arguments: Namespace) -> dict[str, float]:
    """Train the run that the arguments describe."""
    with joined(arguments.data_ranks) as ranks:
        return train(
            arguments.settings,
            arguments.activations,
            arguments.state,
            arguments.out,
            arguments.study,
            arguments.fingerprint,
            ranks,
        )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(RunSettings), required=True, help="the run, as JSON")
    parser.add_argument("--activations", type=Path, required=True, help="folder of all sites' shards")
    parser.add_argument("--state", type=Path, required=True, help="folder of the training state, for this run alone")
    parser.add_argument("--fingerprint", default="", help="hash of the code; a state saved under another is dropped")
    parser.add_argument(
        "--data-ranks",
        type=int,
        default=1,
        help="processes that divide the rows of a batch, not the sites (default: 1)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    run(parser, main)
