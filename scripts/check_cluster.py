"""Say in one line each what a SLURM cluster lacks for this pipeline: `make check-cluster`."""

import sys
from datetime import timedelta
from pathlib import Path

from ontogeny.cluster import findings, read_profile, report
from ontogeny.command import Parser
from ontogeny.errors import UserError


def hello() -> None:
    """Meet the other processes that torchrun started, and add up their numbers."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    total = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(total)
    world = dist.get_world_size()
    if dist.get_rank() == 0 and total == world * (world + 1) / 2:
        sys.stdout.write(f"hello from {world} processes\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("--profile", type=Path, action="append", help="profile; several are laid on top of each other")
    parser.add_argument("--folder", type=Path, default=Path("results"), help="folder that all nodes share")
    parser.add_argument("--seconds", type=int, default=600, help="how long to wait for each test job (default: 600)")
    parser.add_argument("--hello", action="store_true", help="be one of the processes that greet each other")
    arguments = parser.parse_args()
    if arguments.hello:
        hello()
        sys.exit()
    try:
        profile, requests = read_profile(*(arguments.profile or [Path("profiles/slurm")]))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    sys.exit(not report(findings(profile, requests, arguments.folder, arguments.seconds), sys.stdout.write))
