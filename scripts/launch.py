"""Start the training of a run: as one plain process, or as several by torchrun if its work can be divided.

    python scripts/launch.py --processes 2 -- scripts/dictionary.py --settings ...

The command takes the place of this one, so that signals reach it.
"""

import os
import sys
from argparse import ArgumentParser

SECONDS_TO_SAVE = 240
"""How long torchrun waits, after it has passed SIGTERM on, before it kills: a little less than the five minutes that
the SLURM profile leaves a run to save its state."""


def launch_command(command: list[str], processes: int, data_ranks: int, sites: int | None) -> list[str]:
    """Say what is to be run.

    Args:
        command: a script and its options.
        processes: most processes to start; a multiple of `data_ranks`.
        data_ranks: processes that divide the rows of a batch.
        sites: number of sites, above which nothing is left to divide; None if it is not known.
    """
    site_ranks = processes // data_ranks if sites is None else min(processes // data_ranks, sites)
    if data_ranks > 1:
        command = [*command, "--data-ranks", str(data_ranks)]
    if site_ranks * data_ranks == 1:
        return [sys.executable, *command]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--shutdown-timeout",
        str(SECONDS_TO_SAVE),
    ]
    # Without the --, torchrun takes --log for a short form of its own options.
    return [*torchrun, "--nproc-per-node", str(site_ranks * data_ranks), "--", *command]


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=1, help="most processes to start (default: 1)")
    parser.add_argument(
        "--data-ranks", type=int, default=1, help="processes that divide the rows of a batch (default: 1)"
    )
    parser.add_argument("--sites", type=int, help="number of sites; no more processes than that divide them")
    parser.add_argument("command", nargs="+", help="the script and its options, after --")
    arguments = parser.parse_args()
    if min(arguments.processes, arguments.data_ranks) < 1 or arguments.processes % arguments.data_ranks:
        parser.error(f"--data-ranks {arguments.data_ranks} does not divide --processes {arguments.processes}")
    # Each process sets its own number of threads; without this, torchrun warns that it sets one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    launched = launch_command(arguments.command, arguments.processes, arguments.data_ranks, arguments.sites)
    os.execv(launched[0], launched)  # noqa: S606
