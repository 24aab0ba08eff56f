"""Start the training of a run: as one plain process, or as several by torchrun, on one node or on those of a SLURM job.

    python scripts/launch.py --processes 2 -- scripts/dictionary.py --settings ...
    python scripts/launch.py --nodes 2 --processes 16 --threads 8 -- scripts/dictionary.py --settings ...

The command takes the place of this one, so that signals reach it.
"""

import os
import socket
import sys
from argparse import ArgumentParser
from typing import NamedTuple

SECONDS_TO_SAVE = 240
"""How long torchrun waits, after it has passed SIGTERM on, before it kills, unless told otherwise: a little less than
the five minutes that the SLURM profile leaves a run to save its state."""

TASKS = range(2**32 - 16)
"""Numbers of the steps of a SLURM job that srun starts; those above are SLURM's own, such as the batch script."""

PORTS = range(20000, 32000)
"""Where the nodes of a job meet: below the ports that Linux hands out by itself."""


class Grid(NamedTuple):
    """Processes of a run."""

    nodes: int
    """Machines."""
    per_node: int
    """Processes on each of them."""


class Meeting(NamedTuple):
    """Where the nodes of a job find each other."""

    job: str
    """Number of the SLURM job."""
    host: str
    """Its first node."""
    port: int
    """A port that is free there."""


def grid(nodes: int, processes: int, data_ranks: int, sites: int | None) -> Grid:
    """Divide the work: no more processes than sites can be divided among, equally many on every node.

    Args:
        nodes: machines at hand.
        processes: most processes to start; a multiple of `data_ranks`.
        data_ranks: processes that divide the rows of a batch.
        sites: number of sites, above which nothing is left to divide; None if it is not known.
    """
    site_ranks = processes // data_ranks if sites is None else min(processes // data_ranks, sites)
    for fewer in range(site_ranks, 0, -1):
        if fewer * data_ranks % nodes == 0:
            return Grid(nodes, fewer * data_ranks // nodes)
    return Grid(1, site_ranks * data_ranks)


def launch_command(
    command: list[str],
    place: Grid,
    data_ranks: int = 1,
    threads: int = 1,
    meeting: Meeting | None = None,
    seconds_to_save: int = SECONDS_TO_SAVE,
) -> list[str]:
    """Say what is to be run.

    Args:
        command: a script and its options.
        place: the processes.
        data_ranks: processes that divide the rows of a batch.
        threads: CPUs of a node.
        meeting: where nodes meet if there are several.
        seconds_to_save: how long torchrun waits after SIGTERM before it kills.
    """
    if data_ranks > 1:
        command = [*command, "--data-ranks", str(data_ranks)]
    if place == (1, 1):
        return [sys.executable, *command]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--shutdown-timeout", str(seconds_to_save)]
    # Without the --, torchrun takes --log for a short form of its own options.
    workers = ["--nproc-per-node", str(place.per_node), "--", *command]
    if meeting is None:
        return [*torchrun, "--standalone", *workers]
    met = ["--rdzv-backend", "c10d", "--rdzv-id", meeting.job, "--rdzv-endpoint", f"{meeting.host}:{meeting.port}"]
    srun = [*once_a_node(place.nodes, threads), "--kill-on-bad-exit=1"]
    return [*srun, *torchrun, "--nnodes", str(place.nodes), *met, *workers]


def once_a_node(nodes: int, threads: int) -> list[str]:
    """Begin a command that SLURM starts once on each node.

    What sbatch was told of tasks and CPUs is not in the environment of a rule, so it is said again.
    """
    return ["srun", "--nodes", str(nodes), "--ntasks", str(nodes), "--cpus-per-task", str(threads)]


def meeting_of(job: str) -> Meeting:
    """Let the nodes of a SLURM job meet here, on its first node, which runs this; each job begins at its own port."""
    first = int(job) % len(PORTS)
    for port in [*PORTS[first:], *PORTS[:first]]:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return Meeting(job, socket.gethostname(), port)
    raise SystemExit(f"error: no port from {PORTS.start} to {PORTS.stop - 1} is free on {socket.gethostname()}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the SLURM job to use (default: 1)")
    parser.add_argument("--processes", type=int, default=1, help="most processes on all nodes (default: 1)")
    parser.add_argument(
        "--data-ranks", type=int, default=1, help="processes that divide the rows of a batch (default: 1)"
    )
    parser.add_argument("--sites", type=int, help="number of sites; no more processes than that divide them")
    parser.add_argument("--threads", type=int, default=1, help="CPUs of a node (default: 1)")
    parser.add_argument(
        "--seconds-to-save",
        type=int,
        default=SECONDS_TO_SAVE,
        help=f"how long to wait after SIGTERM before processes are killed (default: {SECONDS_TO_SAVE})",
    )
    parser.add_argument("command", nargs="+", help="the script and its options, after --")
    arguments = parser.parse_args()
    nodes, processes, data_ranks = arguments.nodes, arguments.processes, arguments.data_ranks
    if min(nodes, processes, data_ranks, arguments.threads) < 1 or processes % data_ranks or processes % nodes:
        raise SystemExit(
            f"error: --nodes {nodes} and --data-ranks {data_ranks} must divide --processes {processes}, "
            "and all of them and --threads be above 0"
        )
    place = grid(nodes, processes, data_ranks, arguments.sites)
    job = os.environ.get("SLURM_JOB_ID")
    if nodes > 1 and not job:
        raise SystemExit(
            f"error: --nodes {nodes}: there is no SLURM job (SLURM_JOB_ID is not set); start it with sbatch, "
            "or with torchrun on every node by hand"
        )
    if nodes > 1 and int(os.environ.get("SLURM_STEP_ID", TASKS.stop)) in TASKS:
        raise SystemExit(
            f"error: --nodes {nodes}: srun has started this, and an srun over several nodes would wait for its place "
            "for ever; start it in the batch script (in Snakemake: resources mpi and tasks, see docs/clusters.md)"
        )
    # Each process sets its own number of threads; without this, torchrun warns that it sets one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    meeting = meeting_of(job) if job and place.nodes > 1 else None
    launched = launch_command(
        arguments.command, place, data_ranks, arguments.threads, meeting, arguments.seconds_to_save
    )
    if nodes > place.nodes == 1:
        # SLURM's signals reach the steps of such a job and not its batch script, which runs this.
        launched = [*once_a_node(1, arguments.threads), *launched]
    os.execvp(launched[0], launched)  # noqa: S606
